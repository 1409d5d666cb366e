"""A start that processes which know nothing of each other take together."""

import time
from pathlib import Path

from dmaxlit.errors import UserError

_LONGEST = 600.0  # seconds
_PAUSE = 0.005


def wait_for_others(folder: Path, number: int, total: int) -> None:
    """Return once all processes of a measurement have called this.

    Args:
        folder: An empty folder that they share.
        number: Number of this one, from 0.
        total: How many there are.

    Raises:
        UserError: If one has not come within ten minutes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(number)).touch()
    end = time.monotonic() + _LONGEST
    while (ready := sum(1 for _ in folder.iterdir())) < total:
        if time.monotonic() > end:
            raise UserError(f"bench scale: expected {total} processes at the start, got {ready}")
        time.sleep(_PAUSE)
