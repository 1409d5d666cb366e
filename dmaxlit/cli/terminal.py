"""Warnings on a terminal: what they quote of models and files is shown, and never obeyed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dmaxlit.errors import DMaxWarning, printable


@contextmanager
def printable_warnings() -> Iterator[None]:
    """Show warnings as :func:`~dmaxlit.errors.printable` text: they quote names and rows of the user's files.

    Ours are a line each, as errors are: where in the code they come from says nothing to the user of a command.
    """
    show = warnings.formatwarning

    def show_printable(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> str:
        is_ours = issubclass(category, DMaxWarning)
        return printable(f"warning: {message}\n" if is_ours else show(message, category, *args, **kwargs))

    warnings.formatwarning = show_printable
    try:
        yield
    finally:
        warnings.formatwarning = show
