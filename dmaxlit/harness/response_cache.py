"""lm-evaluation-harness's cache of responses (``--use_cache``), which knows requests, and not who answered them."""

from collections.abc import Mapping, MutableMapping
from typing import Any

from dmaxlit.data.identity import difference
from dmaxlit.errors import UserError

_KEY = "dmaxlit"  # those of responses are hashes


def claim_cache(cache: MutableMapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Record in a new cache what its responses depend on, or check that they depend on the same.

    Args:
        cache: lm-eval's database.
        identity: Model and settings; plain values.

    Raises:
        UserError: If it holds responses of another model, or by other settings.
    """
    recorded = cache.get(_KEY) if cache else identity
    change = "who wrote it is not recorded" if recorded is None else difference(recorded, identity)
    if change is not None:
        raise UserError(f"use_cache: expected a new cache, or one of this model and settings, got another: {change}")
    cache[_KEY] = dict(identity)
