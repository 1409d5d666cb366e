"""``--trainer.callbacks.ComparisonReport.num_examples 64``: options of a class in a list, by the name of the class.

The parser itself gives options only to the last class of a list. Here a first pass over the other arguments finds out
what the list holds; then the list with the new options takes the place of these flags.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pydoc import locate
from typing import Any, cast

from jsonargparse import ArgumentParser

from dmaxlit.cli.class_names import PARSER_MODE
from dmaxlit.cli.config_files import yaml_line
from dmaxlit.cli.flags import split_flags
from dmaxlit.cli.jsonargparse_internals import plain_settings
from dmaxlit.errors import UserError

_LISTS = ("trainer.callbacks", "trainer.logger", "trainer.plugins")
# Names of classes begin with a capital, those of options and modules do not.
_FLAG = re.compile(rf"--({'|'.join(map(re.escape, _LISTS))})\.((?:[a-z_]\w*\.)*?_*[A-Z]\w*)\.(.+)")
_HELP = re.compile(f"^{_FLAG.pattern.removesuffix('(.+)')}help$")


@dataclass(frozen=True)
class ListedOption:
    """An option of a class in a list.

    Args:
        setting: The list: ``trainer.callbacks``.
        name: Name or import path of the class.
        option: Name of the option, as the parser reads it: ``decoders``, ``decoders+``, ``decoders.name``.
        value: Its value.
    """

    setting: str
    name: str
    option: str
    value: str


def split_listed_options(args: Sequence[str]) -> tuple[list[ListedOption], list[str]]:
    """Return the options of classes in lists, and the other arguments; ``--LIST.CLASS.help`` as the parser has it.

    Args:
        args: Command-line arguments.

    Raises:
        UserError: If an option has no value.
    """
    args = [_HELP.sub(r"--\1.help=\2", arg) for arg in args]
    flags, others = split_flags(list(_whole_lists(args)), _FLAG.fullmatch)
    options = []
    for flag, value in flags:
        setting, name, option = cast(re.Match[str], _FLAG.fullmatch(flag)).groups()
        options.append(ListedOption(setting, name, option, value))
    return options, others


def _whole_lists(args: Sequence[str]) -> Iterator[str]:
    """Return the arguments with null before each whole list, which the parser would merge with one of its length."""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = arg.partition("=")
        if flag.removeprefix("--") in _LISTS and (value if equals else following).startswith("["):
            yield f"{flag}=null"
        yield arg


def with_listed_options(
    args: Sequence[str], options: Sequence[ListedOption], settings_of: Callable[[Sequence[str]], Any]
) -> list[str]:
    """Return the arguments with lists that have other options.

    Args:
        args: Command-line arguments.
        options: The options.
        settings_of: Returns what arguments set.

    Raises:
        UserError: If the list holds no such class, or several.
        ArgumentError: If the class refuses an option, or the parser an argument.
    """
    args = list(args)
    if not options:
        return args
    trainer = settings_of(args)["trainer"]
    for setting in dict.fromkeys(option.setting for option in options):
        value = trainer.get(setting.partition(".")[2])
        items = list(value) if isinstance(value, list) else [value] if isinstance(value, dict) else []
        for name in dict.fromkeys(option.name for option in options if option.setting == setting):
            index = _index(items, setting, name)
            items[index] = _with_options(
                items[index], [option for option in options if (option.setting, option.name) == (setting, name)]
            )
        # null first, because the parser merges a list into one of the same length
        args += [f"--{setting}=null", f"--{setting}={yaml_line(items if isinstance(value, list) else items[0])}"]
    return args


def _index(items: Sequence[Any], setting: str, name: str) -> int:
    """Return the index of the only item of a class."""
    matching = [index for index, item in enumerate(items) if name in _names(item)]
    if len(matching) > 1:
        raise UserError(
            f"{setting}.{name}: expected one of this class in the list, got {len(matching)}; set its options in a "
            "configuration file"
        )
    if not matching:
        listed = ", ".join(str(item["class_path"]).rpartition(".")[2] for item in items)
        raise UserError(
            f"{setting}.{name}: expected a class in the list, got none of this name; "
            + (f"there are {listed}" if listed else f"the list is empty, --{setting}+={name} adds one")
        )
    return matching[0]


def _names(item: dict[str, Any]) -> Iterator[str]:
    """Return what the class of an item may be called."""
    cls: Any = locate(item["class_path"])
    yield from (item["class_path"], cls.__name__, f"{cls.__module__}.{cls.__qualname__}")


def _with_options(item: dict[str, Any], options: Sequence[ListedOption]) -> dict[str, Any]:
    """Return an item of a list with other options."""
    key = f"{options[0].setting}.{options[0].name}"
    # The parser merges a value with the one before; an option that is set as a whole has none.
    whole = {option.option.removeprefix("init_args.") for option in options}
    init_args = {name: value for name, value in item.get("init_args", {}).items() if name not in whole}
    parser = ArgumentParser(exit_on_error=False, parser_mode=PARSER_MODE)
    parser.add_subclass_arguments(cast(Any, locate(item["class_path"])), key, fail_untyped=False)
    flags = [f"--{key}.{option.option}={option.value}" for option in options]
    parsed = parser.parse_args([f"--{key}={yaml_line({**item, 'init_args': init_args})}", *flags])
    return reduce(getitem, key.split("."), plain_settings(parser, parsed))
