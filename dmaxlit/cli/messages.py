"""Turn exceptions of the parser into one line that a user can act on."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module

from dmaxlit.cli import jsonargparse_internals as internals
from dmaxlit.cli.renames import renamed_option
from dmaxlit.errors import UserError

_FROM_MODULE = ("params", "optimizer")  # arguments of optimisers and schedules that are not options


def one_line(error: BaseException, known: Iterable[str] = ()) -> str:
    """Return what is wrong, where, and what was expected, in one line.

    jsonargparse nests exceptions: the outermost quotes everything, the innermost has the reason. A :class:`UserError`
    among them takes precedence.

    Args:
        error: Exception raised while parsing or instantiating.
        known: Existing settings, to suggest the closest one for an unknown setting.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, UserError):
            return _flat(str(cause))
    messages = [str(cause) for cause in causes]
    reason = _reason(messages, list(known))
    settings: list[str] = []
    for setting in map(internals.setting_of, messages):
        if setting and settings[-1:] != [setting]:
            settings.append(setting)
    return f"{'.'.join(settings)}: {reason}" if settings else reason


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"`` for the known name most like ``name``, or an empty string."""
    matches = get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _reason(messages: list[str], known: list[str]) -> str:
    """Return the innermost message; if no member of a union fits, it names them all."""
    innermost = _flat(internals.without_settings(messages[-1]))
    if mismatch := internals.wrong_value(innermost):
        expected, value = mismatch
        members = internals.union_members(messages[-2]) if len(messages) > 1 else None
        return f"expected {_either(internals.readable(members or expected))}, got {value!r}"
    if name := internals.unknown_class(innermost):
        return f"expected the name or import path of a class, got {name!r}"
    if option := internals.unknown_option(innermost):
        paths = [path for message in messages for path in internals.class_paths(message)]
        return f"unknown option {option!r}" + (_of_class(paths[-1], option) if paths else "")
    if setting := internals.unknown_setting(innermost):
        return f"unknown setting {setting!r}{closest(setting, known)}"
    return internals.readable(innermost)


def _of_class(path: str, option: str) -> str:
    module, _, name = path.rpartition(".")
    from jsonargparse import ArgumentParser  # here, so that `dmaxlit --help` does not wait for it

    # As the parser sees them: with the options that a constructor passes on to that of its base class.
    parser = ArgumentParser(exit_on_error=False)
    try:
        options = parser.add_class_arguments(getattr(import_module(module), name), "options", fail_untyped=False)
    except (AttributeError, ImportError, ValueError):  # the parser may name a type, such as typing.Union
        return ""
    known = [key for key in (argument.partition(".")[2] for argument in options) if key not in _FROM_MODULE]
    new = renamed_option(path, option)
    hint = closest(option, known) if new is None else f" (it is now {new})"
    return f" of {name}{hint}; known: {', '.join(known)}"


def _either(alternatives: str) -> str:
    """Return ``a, b or c`` for ``a, b, c``; commas in brackets separate nothing."""
    depth, names = 0, [""]
    for character in alternatives:
        depth += (character in "[(") - (character in ")]")
        if character == "," and depth == 0:
            names.append("")
        else:
            names[-1] += character
    *others, last = [name.strip() for name in names]
    return f"{', '.join(others)} or {last}" if others else last


def _flat(text: str) -> str:
    return " ".join(text.split())
