"""From an exception of the parser to one line that a person can act on."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module

from jsonargparse import ArgumentParser

from dmaxlit.errors import UserError

__all__ = ["closest", "one_line"]

_KEY = re.compile(r'Parser key "([^"]+)":\s*')
_TYPE = re.compile(r"<class '(?:[\w.]+\.)?(\w+)'>")
_MODULES = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")
_WANTED = re.compile(r"Expected an? (.+?)\. Got value: (.*)")
_NO_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_UNION = re.compile(r"^Subtypes: \[(.*)\]$", re.MULTILINE)
_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_SETTING = re.compile(r"Subcommand '\w+' does not accept option '([^']+)'")
_CLASS_PATH = re.compile(r"class_path[= ]'([\w.]+)'")
_LITERAL = re.compile(r"Literal\[(.*?)\]")
_COMMAND = re.compile(r"(?<= )(?:fit|validate|test|predict)\.")
_GIVEN = ("params", "optimizer")  # what optimisers and schedules get from the module
_FLAG = re.compile(r"unrecognized arguments: (?:--)?([^\s=]+).*")


def one_line(error: BaseException, known: Iterable[str] = ()) -> str:
    """What is wrong, where, and what was expected, in one line.

    jsonargparse nests exceptions: the outermost quotes everything, the innermost holds the reason. A :class:`UserError`
    anywhere among them says it best.

    Args:
        error: What was raised while parsing or instantiating.
        known: Settings there are, to name the closest where one is not known.
    """
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return _flat(str(cause))
    messages = [str(cause) for cause in chain]
    reason = _reason(messages, list(known))
    keys: list[str] = []
    for message in messages:
        found = _KEY.match(message)
        if found and (not keys or keys[-1] != found[1]):
            keys.append(found[1])
    return f"{'.'.join(keys)}: {reason}" if keys else reason


def closest(name: str, known: Iterable[str]) -> str:
    """``" (did you mean X?)"`` for the known name most like ``name``, or nothing."""
    found = get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _reason(messages: list[str], known: list[str]) -> str:
    """The innermost message; where no member of a union fits, all of them are what was expected."""
    innermost = _flat(_KEY.sub("", messages[-1]))
    if found := _WANTED.fullmatch(innermost):
        union = _UNION.search(messages[-2]) if len(messages) > 1 else None
        return f"expected {_either(_plain(union[1] if union else found[1]))}, got {found[2]!r}"
    if found := _NO_CLASS.fullmatch(innermost):
        return f"expected the name or import path of a class, got {found[1]!r}"
    if found := _OPTION.fullmatch(innermost):
        paths = [path for message in messages for path in _CLASS_PATH.findall(message)]
        return f"unknown option {found[1]!r}" + (_of_class(paths[-1], found[1]) if paths else "")
    if found := _SETTING.fullmatch(innermost) or _FLAG.fullmatch(innermost):
        return f"unknown setting {found[1]!r}{closest(found[1], known)}"
    return _plain(innermost)


def _of_class(path: str, option: str) -> str:
    module, _, name = path.rpartition(".")
    # As the parser sees them: with the options that a constructor passes on to that of its base class.
    parser = ArgumentParser(exit_on_error=False)
    options = parser.add_class_arguments(getattr(import_module(module), name), "options", fail_untyped=False)
    known = [key for key in (argument.partition(".")[2] for argument in options) if key not in _GIVEN]
    return f" of {name}{closest(option, known)}; known: {', '.join(known)}"


def _either(alternatives: str) -> str:
    """``a, b or c`` for ``a, b, c``; commas in brackets divide nothing."""
    depth, parts = 0, [""]
    for character in alternatives:
        depth += (character in "[(") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    *others, last = [part.strip() for part in parts]
    return f"{', '.join(others)} or {last}" if others else last


def _plain(text: str) -> str:
    text = _MODULES.sub("", _TYPE.sub(r"\1", text)).replace("NoneType", "null").replace('in "<unicode string>",', "at")
    return _COMMAND.sub("", _LITERAL.sub(r"\1", text))


def _flat(text: str) -> str:
    return " ".join(text.split())
