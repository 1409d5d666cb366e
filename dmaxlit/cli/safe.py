"""``--safe``: for configurations from strangers.

A configuration is code: it names classes and functions, which are imported and called. With ``--safe`` it may name
registered strategies, decoders and tasks, and classes of dmaxlit, torch's optimisers and Lightning.
"""

from dmaxlit.cli.jsonargparse_internals import admit_imports

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


def admit(args: list[str]) -> tuple[list[str], bool]:
    """Decide what the command line may import.

    Args:
        args: Its arguments.

    Returns:
        The arguments without the flag, and whether it was among them.
    """
    if FLAG not in args:
        admit_imports()
        return args, False
    from dmaxlit.registry import Registry

    Registry.admits_import_paths = False
    admit_imports(_PACKAGES)
    return [arg for arg in args if arg != FLAG], True
