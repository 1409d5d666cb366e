"""dmaxlit: train and decode diffusion language models that write many tokens per forward and correct themselves."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmaxlit.errors import UserError
from dmaxlit.version import __version__

if TYPE_CHECKING:
    from dmaxlit.loading import load
    from dmaxlit.module import DMaxModule
    from dmaxlit.tasks import task

__all__ = ["DMaxModule", "UserError", "__version__", "load", "task"]

# Imported on first use, so that `dmaxlit --help` does not wait seconds for torch and transformers.
_LAZY = {"DMaxModule": "dmaxlit.module", "load": "dmaxlit.loading", "task": "dmaxlit.tasks"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
