"""Flags that are taken out of the arguments before they are parsed, and what the others set."""

from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from dmaxlit.cli.jsonargparse_internals import parse_unvalidated, plain_settings
from dmaxlit.errors import UserError


def split_flags(args: Sequence[str], is_meant: Callable[[str], object]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return flags of a kind with their values, and the other arguments.

    Args:
        args: Command-line arguments: ``--flag value`` or ``--flag=value``.
        is_meant: Whether a flag is of the kind.

    Raises:
        UserError: If such a flag has no value.
    """
    flags: list[tuple[str, str]] = []
    others: list[str] = []
    rest = iter(args)
    for arg in rest:
        flag, equals, value = arg.partition("=")
        if not is_meant(flag):
            others.append(arg)
            continue
        if not equals:
            value = next(rest, "--")
            if value.startswith("--"):
                raise UserError(f"{flag.removeprefix('--')}: expected a value, got none")
        flags.append((flag, value))
    return flags, others


def settings_of(parser: ArgumentParser, args: Sequence[str]) -> dict[str, Any]:
    """Return the settings by configuration files and flags, as plain values; what is required may be missing.

    Args:
        parser: Parser of the arguments.
        args: The arguments.

    Raises:
        ArgumentError: If the parser refuses one.
    """
    unprinted = [arg for arg in args if not arg.startswith("--print_config")]
    return plain_settings(parser, parse_unvalidated(parser, unprinted), check=False)
