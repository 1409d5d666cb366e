"""Warnings on a terminal: what they quote of models and files is shown, and never obeyed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dmaxlit.errors import printable


@contextmanager
def printable_warnings() -> Iterator[None]:
    """Show warnings as :func:`~dmaxlit.errors.printable` text: they quote names and rows of the user's files."""
    show = warnings.formatwarning

    def show_printable(message: Any, *args: Any, **kwargs: Any) -> str:
        return printable(show(message, *args, **kwargs))

    warnings.formatwarning = show_printable
    try:
        yield
    finally:
        warnings.formatwarning = show
