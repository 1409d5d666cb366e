"""``--model my_file.MyModule``: commands with a subclass of our module."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dmaxlit.cli.jsonargparse_internals import denied_import
from dmaxlit.errors import UserError, reason_of
from dmaxlit.module import DMaxModule

_FLAG = "--model"


def split_model_class(args: Sequence[str]) -> tuple[type[DMaxModule], list[str]]:
    """Return the class that ``--model`` names by import path, and the other arguments.

    A configuration file for the section ``model``, and its settings as YAML, are left to the parser; the name of a
    model, to :func:`~dmaxlit.cli.model_flag.expand_model_flag`.

    Args:
        args: Command-line arguments.

    Raises:
        UserError: If there is no such class, or it is no subclass of :class:`~dmaxlit.DMaxModule`.
    """
    cls: type[DMaxModule] = DMaxModule
    others: list[str] = []
    rest = iter(args)
    for arg in rest:
        flag, equals, value = arg.partition("=")
        if flag != _FLAG:
            others.append(arg)
            continue
        values = [value] if equals else list(filter(None, [next(rest, None)]))
        if values and _is_import_path(values[0]):
            cls = _module_class(values[0])
        else:
            others += [arg] if equals else [arg, *values]
    return cls, others


def _module_class(path: str) -> type[DMaxModule]:
    if reason := denied_import(path):
        raise UserError(f"model: {reason}")
    module, _, name = path.rpartition(".")
    try:
        cls: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(
            f"model: expected the import path of a subclass of DMaxModule, got {path!r} ({reason_of(error)})"
        ) from error
    if not isinstance(cls, type) or not issubclass(cls, DMaxModule):
        raise UserError(f"model: expected the import path of a subclass of DMaxModule, got {path!r}")
    return cls


def _is_import_path(value: str) -> bool:
    parts = value.split(".")
    return (
        len(parts) > 1
        and parts[-1] not in ("yaml", "yml", "json", "ckpt")
        and all(part.isidentifier() for part in parts)
        and not Path(value).is_dir()  # a model
    )
