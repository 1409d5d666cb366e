"""Text of models and files on a terminal: it is shown, and never obeyed."""

import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Directional marks change the order in which other characters appear.
_DIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    r"""Return a text whose control characters are written as escapes (``\x1b``); tabs and line ends stay.

    A terminal obeys control sequences: they can rewrite what is on the screen, set the title, or write to the
    clipboard. Directional marks and lone surrogates, which cannot be encoded, are escaped too.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


@contextmanager
def printable_warnings() -> Iterator[None]:
    """Show warnings as :func:`printable` text: they quote names and rows of the user's files."""
    show = warnings.formatwarning

    def show_printable(message: Any, *args: Any, **kwargs: Any) -> str:
        return printable(show(message, *args, **kwargs))

    warnings.formatwarning = show_printable
    try:
        yield
    finally:
        warnings.formatwarning = show


def _visible(character: str) -> str:
    is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"
    if is_control or character in _DIRECTIONAL:
        return character.encode("unicode_escape").decode()
    return character
