"""A start that processes which know nothing of each other take together."""

import time
from pathlib import Path

from dmaxlit.errors import UserError

_LONGEST = 600.0  # seconds
_PAUSE = 0.005
_CALLED_OFF = "called-off"


def wait_for_others(folder: Path, number: int, total: int) -> None:
    """Return once all processes of a measurement have called this.

    Args:
        folder: An empty folder that they share.
        number: Number of this one, from 0.
        total: How many there are.

    Raises:
        UserError: If one has not come within ten minutes, or the start is called off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(number)).touch()
    end = time.monotonic() + _LONGEST
    while (ready := sum(path.name != _CALLED_OFF for path in folder.iterdir())) < total:
        if (folder / _CALLED_OFF).exists():
            raise UserError("bench scale: another process failed before the start")
        if time.monotonic() > end:
            raise UserError(f"bench scale: expected {total} processes at the start, got {ready}")
        time.sleep(_PAUSE)


def call_off(folder: Path) -> None:
    """Let all that wait for a start fail, since it will not come.

    Args:
        folder: The folder of the start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CALLED_OFF).touch()
