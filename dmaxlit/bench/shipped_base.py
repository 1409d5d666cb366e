"""The shipped model that several benchmarks start from."""

from dmaxlit.loading import load
from dmaxlit.weights_hash import weights_hash

SHIPPED_BASE = "builtin:chain-base"


def shipped_base_settings() -> dict[str, str]:
    """Return the weights that results depend on beside a benchmark's own settings: another release may ship others."""
    return {"weights of base": weights_hash(load(SHIPPED_BASE, probe=False))}
