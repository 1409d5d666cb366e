"""What dmaxlit uses of transformers beyond its documented interface, in one place.

Each function names what it stands on; ``tests/backbone/test_transformers_internals.py`` has a test for each, so that a
release that changes one of them says what to mend.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
from torch import nn
from transformers.utils import logging as transformers_logging

__all__ = ["cache_argument", "without_progress_bars"]


def cache_argument(model: nn.Module) -> str:
    """Name of the argument by which a base model's ``forward`` takes a cache.

    ``past_key_values`` up to transformers 5.23, ``cache`` from 5.24 on.

    Args:
        model: The base model.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Show no bars for reading and writing weights inside; bars for downloads from the hub stay."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    enable_progress_bars()  # the line above disables the hub's too
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
