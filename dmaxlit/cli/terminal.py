"""Warnings, logs and tracebacks on a terminal: what they quote of models and files is shown, and never obeyed."""

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from dmaxlit.errors import DMaxWarning, printable


@contextmanager
def printable_messages() -> Iterator[None]:
    """Show warnings and logs as :func:`~dmaxlit.errors.printable` text: they quote names and rows of the user's files.

    Our warnings are a line each, as errors are: where in the code they come from says nothing to the user of a command.
    """
    show, make_record = warnings.formatwarning, logging.getLogRecordFactory()

    def show_printable(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> str:
        is_ours = issubclass(category, DMaxWarning)
        return printable(f"warning: {message}\n" if is_ours else show(message, category, *args, **kwargs))

    warnings.formatwarning = show_printable
    logging.setLogRecordFactory(_PrintableRecord)
    try:
        yield
    finally:
        warnings.formatwarning = show
        logging.setLogRecordFactory(make_record)


class _PrintableRecord(logging.LogRecord):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:  # formatters show this text instead of making their own
            self.exc_text = printable("".join(traceback.format_exception(*self.exc_info))).rstrip("\n")

    def getMessage(self) -> str:  # noqa: N802 (the library's name)
        return printable(super().getMessage())


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody caught, as ``sys.excepthook``: its message may quote a file."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))
