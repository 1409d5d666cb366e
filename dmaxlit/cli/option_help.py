"""``--decoder.help NAME``, ``--task.help NAME`` and ``--data.task.help NAME``."""

import inspect
import sys
from collections.abc import Collection, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from dmaxlit.errors import UserError
from dmaxlit.registry import Registry


def show_option_help(args: Sequence[str], flags: Collection[str]) -> None:
    """Print the options of a decoder or task and exit, if the arguments ask for it.

    Args:
        args: Arguments of a command: ``--decoder.help NAME`` or ``--decoder.help=NAME``; without a name, that of
            ``--decoder NAME``.
        flags: Those of ``--decoder``, ``--admission``, ``--task`` and ``--data.task`` that the command has.

    Raises:
        UserError: If there is no name, or no class of it.
        SystemExit: With status 0, after printing.
    """
    for flag in flags:
        for index, arg in enumerate(args):
            name, equals, value = arg.partition("=")
            if name != f"{flag}.help":
                continue
            registry = _registry(flag)
            value = value if equals else _value(args[index + 1 :]) or _of_flag(args, flag)
            if not value:
                raise UserError(f"{name.lstrip('-')}: expected a name; known: {', '.join(registry)}")
            _print_help(flag, value, registry.get(value))
            raise SystemExit(0)


def _registry(flag: str) -> Registry[Any]:
    if flag == "--decoder":
        from dmaxlit.decoding import DECODERS

        return DECODERS
    if flag == "--admission":
        from dmaxlit.decoding.admission import ADMISSIONS

        return ADMISSIONS
    from dmaxlit.tasks import TASKS

    return TASKS


def _value(rest: Sequence[str]) -> str:
    """Return the first argument if it is a value."""
    return rest[0] if rest and not rest[0].startswith("-") else ""


def _of_flag(args: Sequence[str], flag: str) -> str:
    """Return the last value of a flag, if it is among the arguments."""
    values = [_value(args[index + 1 :]) for index, arg in enumerate(args) if arg == flag]
    values += [arg.partition("=")[2] for arg in args if arg.startswith(f"{flag}=")]
    return values[-1] if values else ""


def _print_help(flag: str, name: str, cls: type[Any]) -> None:
    description = (inspect.getdoc(cls) or "").partition("\n\nArgs:")[0]
    parser = ArgumentParser(prog=f"{flag} {name}", usage=f"{flag} {name} [options]", description=description)
    parser.add_class_arguments(cls, flag.lstrip("-"), fail_untyped=False)
    parser.print_help(sys.stdout)
