"""Progress bars that fit a log file as well as a terminal."""

import sys
from typing import Any

from tqdm.auto import tqdm

_SECONDS_BETWEEN_LINES = 10.0


def make_bar(**options: Any) -> "tqdm[Any]":
    """Return a bar of tqdm; where no line can be redrawn, as in a job's log, one comes every ten seconds at most.

    Args:
        **options: Those of tqdm.
    """
    is_redrawn = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(**{"mininterval": 0.1 if is_redrawn else _SECONDS_BETWEEN_LINES, **options})
