"""Everything that depends on jsonargparse's error texts or on how it works inside; no other file does.

Written for jsonargparse 4.53; ``pyproject.toml`` admits no later minor release. To admit one, run
``tests/cli/test_jsonargparse_internals.py`` with it: each test provokes an error of the installed release and names the
function in this file that no longer understands it. Importing this file does not import jsonargparse, so that
``dmaxlit --help`` stays quick.
"""

import re
from argparse import _AppendAction
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, cast, get_args

from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_SETTING = re.compile(r'Parser key "([^"]+)"(?: element \d+)?:\s*')
_WRONG_VALUE = re.compile(r"Expected an? (.+?)\. Got value: (.*)")
_WRONG_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_NESTED = re.compile(r"NestedArg\(key='(.*?)', val=(['\"])(.*)\2\)")  # of --option.key val
_UNION = re.compile(r"^Subtypes: \[(.*)\]$", re.MULTILINE)
_UNKNOWN_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_UNKNOWN_SETTING = re.compile(r"Subcommand '\w+' does not accept option '([^']+)'")
_UNKNOWN_FLAG = re.compile(r"unrecognized arguments: (?:--)?([^\s=]+).*")
_CLASS_PATH = re.compile(r"class_path[= ]'([\w.]+)'")
_TYPE = re.compile(r"<class '(?:[\w.]+\.)?(\w+)'>")
_LITERAL = re.compile(r"Literal\[(.*?)\]")
_SEQUENCE = re.compile(r"\bSequence\b")
_MODULES = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")
_SUBCOMMAND = re.compile(r"(?<= )(?:fit|validate|test|predict)\.")


def setting_of(message: str) -> str | None:
    """Return the setting that a message begins with, or None."""
    match = _SETTING.match(message)
    return match[1] if match else None


def without_settings(message: str) -> str:
    """Return a message without the settings it names before its reasons."""
    return _SETTING.sub("", message)


def wrong_value(message: str) -> tuple[str, str] | None:
    """Return the expected type and the value, if the message says that the value is of another type."""
    match = _WRONG_VALUE.fullmatch(message)
    return (match[1], _NESTED.sub(r"{\1: \3}", match[2])) if match else None


def union_members(message: str) -> str | None:
    """Return the types of a union, separated by commas, if the message says that a value fits none of them."""
    match = _UNION.search(message)
    return match[1] if match else None


def unknown_class(message: str) -> str | None:
    """Return the name that the message says is not the import path of a class, or None."""
    match = _WRONG_CLASS.fullmatch(message)
    return match[1] if match else None


def unknown_option(message: str) -> str | None:
    """Return the option that the message says a class does not have, or None."""
    match = _UNKNOWN_OPTION.fullmatch(message)
    return match[1] if match else None


def unknown_setting(message: str) -> str | None:
    """Return the setting that the message says does not exist, whether it was in a file or a flag, or None."""
    match = _UNKNOWN_SETTING.fullmatch(message) or _UNKNOWN_FLAG.fullmatch(message)
    return match[1] if match else None


def class_paths(message: str) -> list[str]:
    """Return the import paths of the classes whose options a message is about, in order."""
    return _CLASS_PATH.findall(message)


def readable(message: str) -> str:
    """Return a message with types as people write them: ``int`` for ``<class 'int'>``, ``null`` for ``NoneType``."""
    message = _MODULES.sub("", _readable_types(message)).replace("NoneType", "null")
    message = message.replace('in "<unicode string>",', "at")  # PyYAML's name for text that is not from a file
    return _SUBCOMMAND.sub("", _LITERAL.sub(r"\1", message))


def _readable_types(text: str) -> str:
    return _SEQUENCE.sub("list", _TYPE.sub(r"\1", text))


class ReadableTypes:
    """A help formatter's mixin that shows ``Path`` for ``<class 'Path'>``, and ``list`` for any sequence."""

    def _get_type_str(self, action: Any) -> str | None:
        text = cast(Any, super())._get_type_str(action)
        return None if text is None else _readable_types(text)


@contextmanager
def admitted_imports(packages: Sequence[str] | None = None) -> Iterator[None]:
    """Decide, until the context ends, what a value of the parser may name by import path.

    Args:
        packages: Nothing but these packages and what is in them. None: all but what jsonargparse denies by default,
            such as ``os.system``.
    """
    from jsonargparse import _common, set_parsing_settings

    before = {name: _common.parsing_settings[name] for name in ("import_path_verdicts", "import_paths_enforced")}
    if packages is None:
        set_parsing_settings(import_path_denylist=[])
    else:
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(packages))
    try:
        yield
    finally:
        _common.parsing_settings.update(before)  # the function above can only add entries


def denied_import(path: str) -> str | None:
    """Return why a value may not name an import path, or None."""
    from jsonargparse._common import denying_import_path_entry

    return None if denying_import_path_entry(path) is None else f"{path!r} may not be imported by a configuration"


def register_loader(mode: str, transform: Callable[[Any], Any] = lambda value: value) -> None:
    """Make ``ArgumentParser(parser_mode=mode)`` read YAML and pass it through a function.

    The null of a flag is ``null``, which jsonargparse reads itself. What else is null as YAML is a text: ``#secret``
    would be a comment, and ``--api_key '#secret'`` no key.

    Args:
        mode: Name of the mode.
        transform: Receives each value read from a file or flag, and returns the value the parser is to see.
    """
    import yaml
    from jsonargparse import get_loader, set_loader

    load_yaml = get_loader("yaml")

    def load(text: str) -> Any:
        value = load_yaml(text)
        return transform(text if value is None else value)

    set_loader(mode, load, exceptions=(yaml.YAMLError,))
    # Settings are dumped with defaults that may be members of an enumeration, as those of Lightning's Timer are.
    yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


class WholeLists:
    """A parser's mixin with which a list in a file replaces the one before; their items would be merged in pairs."""

    def _check_value_key(self, action: Any, value: Any, key: str, cfg: Any, append: bool = False) -> Any:
        before = None if isinstance(value, list) and not append else cfg
        return cast(Any, super())._check_value_key(action, value, key, before, append)


class SeveralValues:
    """A parser's mixin for arguments that take several values: a single one in a file is a list of one.

    jsonargparse would hand on a text in its place, which is then taken for a list of its characters.
    """

    def _check_value_key(self, action: Any, value: Any, key: str, cfg: Any, append: bool = False) -> Any:
        number = action.nargs if isinstance(action.nargs, int) and action.nargs > 1 else None
        takes_several = number or action.nargs in ("*", "+") or isinstance(action, _AppendAction)
        if takes_several and value is not None:
            value = value if isinstance(value, list) else [value]
            is_typed = action.type is not None or hasattr(action, "_typehint")
            if not is_typed and not all(isinstance(item, str) for item in value):
                raise UserError(f"{key}: expected a text or a list of texts, got {value!r:.120}")
            if number and len(value) != number:
                raise UserError(f"{key}: expected a list of {number} texts, got {value!r:.120}")
        return cast(Any, super())._check_value_key(action, value, key, cfg, append)


def prefer_whole_numbers(parser: "ArgumentParser") -> None:
    """Let a parser read 1 as a whole number, not as 1.0, where a setting may be either.

    The first type of a union that fits is taken, and the order is left to chance: ``typing`` keeps the unions that it
    has made, and answers ``Union[int, float]`` with ``Union[float, int]`` if any library asked for that one first. To
    Lightning a ``limit_train_batches`` of 1 is one batch, and of 1.0 all of them.
    """
    for action in parser._actions:
        types = get_args(getattr(action, "_typehint", None))
        if int in types and float in types[: types.index(int)]:
            others = [kind for kind in types if kind is not int]
            cast(Any, action)._typehint = reduce(or_, others, int)


def parse_unvalidated(parser: "ArgumentParser", args: Sequence[str]) -> "Namespace":
    """Return what the arguments set; what is required and missing is None."""
    return parser.parse_args(list(args), _skip_validation=True)


def plain_settings(parser: "ArgumentParser", settings: "Namespace", check: bool = True) -> dict[str, Any]:
    """Return settings as plain values, as a file of them would hold them.

    Args:
        parser: The parser that made them.
        settings: The settings.
        check: Whether to check them once more.
    """
    import yaml

    content: dict[str, Any] = yaml.safe_load(parser.dump(settings, skip_unset=False, skip_validation=not check))
    return content
