"""``--decoder.tau_dec 0.5``, ``--task.columns.prompt question``: options of a decoder or task that goes by name.

Such a class is given by name, with its options in a separate mapping; on the command line flags are easier. The parser
itself would replace all that is nested in an option: ``--task_options.columns.answer`` would undo
``--task_options.columns.prompt``.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from jsonargparse import ArgumentParser

from dmaxlit.cli.config_files import yaml_line
from dmaxlit.cli.flags import split_flags
from dmaxlit.cli.jsonargparse_internals import register_loader

PARSER_MODE = "dmaxlit_command"  # of the commands that are not part of LightningCLI

_SETTINGS = ("decoder", "admission", "task", "data.task")
_OF_PARSER = ("init_args", "class_path", "help")


def expand_option_flags(args: Sequence[str], settings_of: Callable[[Sequence[str]], Any]) -> list[str]:
    """Return the arguments with ``--decoder_options {tau_dec: 0.5}`` for ``--decoder.tau_dec 0.5``; likewise for tasks.

    The mapping has the options of configuration files too. A task given by import path is made by the parser, which
    takes its options as they are.

    Args:
        args: Command-line arguments.
        settings_of: Returns what arguments set.

    Raises:
        UserError: If an option has no value.
    """
    flags, others = split_flags(args, _setting)
    if not flags:
        return others
    settings = settings_of(others)
    mappings: dict[str, Any] = {}
    for flag, text in flags:
        setting = _setting(flag)
        if isinstance(_at(settings, setting), dict):
            others.append(f"{flag}={text}")
            continue
        mapping = mappings.setdefault(setting, _at(settings, f"{setting}_options") or {})
        *parents, option = flag.removeprefix(f"--{setting}.").split(".")
        for parent in parents:
            mapping[parent] = mapping[parent] if isinstance(mapping.get(parent), dict) else {}
            mapping = mapping[parent]
        mapping[option] = read_value(text)
    return others + [f"--{setting}_options={yaml_line(mapping)}" for setting, mapping in mappings.items()]


def _setting(flag: str) -> str:
    """Return the setting whose option a flag is, or an empty string."""
    setting = next((name for name in _SETTINGS if flag.startswith(f"--{name}.")), "")
    return "" if flag.removeprefix(f"--{setting}.").partition(".")[0] in _OF_PARSER else setting


def _at(settings: Any, name: str) -> Any:
    """Return a setting by its dotted name, with or without ``init_args``; None if it is absent."""

    def child(node: Any, key: str) -> Any:
        return node.get("init_args", node).get(key) if isinstance(node, dict) else None

    return reduce(child, name.split("."), settings)


def read_value(text: str) -> Any:
    """Return a value as the parser reads it."""
    parser = ArgumentParser(exit_on_error=False, parser_mode=PARSER_MODE)
    parser.add_argument("--options", type=dict[str, Any])
    return parser.parse_args([f"--options.value={text}"]).options["value"]


register_loader(PARSER_MODE)
