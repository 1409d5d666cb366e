"""``--safe``: for configurations from strangers.

A configuration is code: it names classes and functions, which are imported and called. With ``--safe`` it may name
registered strategies, decoders and tasks, and classes of dmaxlit, torch's optimisers and Lightning. The code that a
model writes then runs in a full sandbox, unless the command line itself says otherwise (``--task.sandbox rlimits``).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from dmaxlit.cli.jsonargparse_internals import admitted_imports

FLAG = "--safe"

# Modules of classes that are meant to be named in a configuration. Functions are nowhere meant to be.
_PACKAGES = (
    *(
        f"dmaxlit.{name}"
        for name in ("backbone", "callbacks", "data", "decoding", "evaluation", "noise", "tasks", "training")
    ),
    "lightning.fabric.plugins",
    *(
        f"lightning.pytorch.{name}"
        for name in ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
    ),
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "torch.optim",
)


@contextmanager
def admitted(args: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Decide what the command line may import, until the context ends.

    Args:
        args: Its arguments.

    Yields:
        The arguments without the flag, and whether it was among them.
    """
    if FLAG not in args:
        with admitted_imports():
            yield args, False
        return
    from dmaxlit.noise import NOISE
    from dmaxlit.registry import Registry
    from dmaxlit.sandbox import SandboxSettings

    before = Registry.admits_import_paths, SandboxSettings.admits_rlimits
    Registry.admits_import_paths, SandboxSettings.admits_rlimits = False, _names_rlimits(args)
    try:
        # The name of a strategy becomes its import path before the parser sees it, also that of another package's.
        strategies = [f"{cls.__module__}.{cls.__qualname__}" for cls in map(NOISE.get, NOISE)]
        with admitted_imports([*_PACKAGES, *strategies]):
            yield [arg for arg in args if arg != FLAG], True
    finally:
        Registry.admits_import_paths, SandboxSettings.admits_rlimits = before


def _names_rlimits(args: Sequence[str]) -> bool:
    """Return whether a flag such as ``--task.humaneval.sandbox`` says that resource limits will do."""
    pairs = [*pairwise(args), *(arg.partition("=")[::2] for arg in args)]
    return any(flag.lstrip("-").rpartition(".")[2] == "sandbox" and value == "rlimits" for flag, value in pairs)
