"""The exception for mistakes that a user can correct, the category of our warnings, and helpers of messages."""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

__all__ = [
    "DMaxWarning",
    "PromptError",
    "UserError",
    "check_at_least",
    "check_choice",
    "check_distinct",
    "check_fraction",
    "check_not_empty",
    "check_not_none",
    "check_temperature",
    "describe_value",
    "is_invisible",
    "printable",
    "reason_of",
    "renaming_argument",
]

_MAX_REASON = 300  # characters
# Directional marks, zero-width characters, the byte order mark, fillers and tags. Joiners and variation selectors stay:
# emoji and Indic scripts need them.
_INVISIBLE = frozenset(
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u3164\ufeff\uffa0"
    + "".join(
        map(chr, [*range(0x2060, 0x2070), *range(0xFFF9, 0xFFFC), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE0080)])
    )
)
# Far beyond use, within single precision.
_MAX_TEMPERATURE, _MIN_TEMPERATURE = 1e4, 1e-6


class UserError(ValueError):
    """A setting, file or prompt that cannot be used.

    The message is one line that names the argument, what was expected and what came. The command line prints it
    as ``error: ...`` and exits with status 2; in Python it is an ordinary ``ValueError``.
    """


class PromptError(UserError):
    """A prompt among several that cannot be used.

    Args:
        index: Index of the prompt in the list.
        reason: What was expected and what came.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index, self.reason = index, reason

    def __str__(self) -> str:
        """Return the message, which names the prompt by its index."""
        return f"prompts[{self.index}]: {self.reason}"


class DMaxWarning(UserWarning):
    """A circumstance of a run that users should check. All warnings of dmaxlit are of this class."""


def check_fraction(name: str, value: float) -> float:
    """Return a number that lies in [0, 1].

    Args:
        name: Name of the argument.
        value: The number.

    Raises:
        UserError: If ``value`` lies outside.
    """
    if not 0 <= value <= 1:
        raise UserError(f"{name}: expected a number in [0, 1], got {value}")
    return value


def check_at_least(least: int, **settings: float | None) -> None:
    """Refuse settings below ``least``, and nan; None passes.

    Raises:
        UserError: For the first setting below it.
    """
    for name, value in settings.items():
        if value is not None and not value >= least:
            raise UserError(f"{name}: expected at least {least}, got {value}")


def check_distinct(**settings: Sequence[object]) -> None:
    """Refuse lists without a value, and those that name one twice.

    Raises:
        UserError: For the first.
    """
    check_not_empty(**settings)
    for name, values in settings.items():
        twice = [value for index, value in enumerate(values) if value in values[:index]]
        if twice:
            raise UserError(f"{name}: expected every value once, got {twice[0]!r} more than once")


def check_not_empty(**settings: Collection[object]) -> None:
    """Refuse lists without a value.

    Raises:
        UserError: For the first.
    """
    for name, values in settings.items():
        if not values:
            raise UserError(f"{name}: expected at least one, got none")


def check_not_none(**settings: object) -> None:
    """Refuse settings that are None; for numbers that have no meaning of "default".

    Raises:
        UserError: For the first that is.
    """
    for name, value in settings.items():
        if value is None:
            raise UserError(f"{name}: expected a number, got null")


def check_temperature(value: float) -> float:
    """Return a temperature that is 0, or with which logits can be divided in single precision.

    Args:
        value: The temperature.

    Raises:
        UserError: If it is negative, no number, too large or too small.
    """
    if not 0 <= value <= _MAX_TEMPERATURE:
        raise UserError(f"temperature: expected a number from 0 to {_MAX_TEMPERATURE:g}, got {value}")
    if 0 < value < _MIN_TEMPERATURE:
        raise UserError(f"temperature: expected 0 or a number from {_MIN_TEMPERATURE:g}, got {value}")
    return value


def check_choice(name: str, value: str, choices: Collection[str]) -> str:
    """Return a text that is one of several.

    Args:
        name: Name of the argument.
        value: The text.
        choices: The allowed texts, at least two.

    Raises:
        UserError: If ``value`` is not among ``choices``.
    """
    if value not in choices:
        *others, last = (repr(choice) for choice in choices)
        raise UserError(f"{name}: expected {', '.join(others)} or {last}, got {value!r}")
    return value


def reason_of(error: BaseException, with_type: bool = False) -> str:
    """Return what a library's exception says, in one printable line of reasonable length, for the end of a message.

    Args:
        error: The exception.
        with_type: Whether to begin with the name of its type. Without a text, that is all.
    """
    text = printable(" ".join(str(error).split()))
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    text = text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."
    name = type(error).__name__
    return f"{name}: {text}" if with_type and text else text or name


@contextmanager
def renaming_argument(outer: str, *inner: str) -> Iterator[None]:
    """Let the messages of a block name an argument as the user knows it.

    Args:
        outer: The user's name for it.
        *inner: Its names in what the block calls, with which messages begin.

    Raises:
        UserError: What the block raises, under the user's name.
    """
    try:
        yield
    except UserError as error:
        argument, colon, message = str(error).partition(": ")
        if argument not in inner:
            raise
        raise UserError(f"{outer}{colon}{message}") from error


def printable(text: str) -> str:
    r"""Return a text whose control characters are written as escapes (``\x1b``); tabs and line ends stay.

    A terminal obeys control sequences: they can rewrite what is on the screen, set the title, or write to the
    clipboard. What cannot be seen, reorders other characters or cannot be encoded is escaped too.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    is_escaped = is_invisible(character) and character not in "\t\n"
    return character.encode("unicode_escape").decode() if is_escaped else character


def is_invisible(character: str) -> bool:
    """Return whether a reader could not see a character: a control character, a mark, a filler, a lone surrogate."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _INVISIBLE


def describe_value(value: object) -> str:
    """Return the end of a message, "got ...": what a value is without its content; of a tensor, type and shape."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"
