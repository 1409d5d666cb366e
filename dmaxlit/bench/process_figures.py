"""What one process of a measurement of scaling has done."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dmaxlit.files import write_json

_NAME = "process-{}.json"


@dataclass(frozen=True)
class ProcessFigures:
    """The work of one process.

    Args:
        seconds: Time that the work took, without start-up.
        cpu_seconds: Time of all cores that the process used meanwhile.
        tokens: Tokens that it generated, or was trained on.
        in_collectives: Share of the time in which a collective was under way, in a run of training; else None.
        rest_seconds: Time of the command after the start without ``seconds``: exchange, merging and writing results.
    """

    seconds: float
    cpu_seconds: float
    tokens: int
    in_collectives: float | None = None
    rest_seconds: float = 0.0

    def write(self, folder: Path, number: int) -> None:
        """Write the figures of a process to the folder of the measurement, by its number."""
        write_json(folder / _NAME.format(number), asdict(self))


def read_figures(folder: Path) -> list[ProcessFigures]:
    """Return the figures of all processes of a measurement."""
    paths = sorted(folder.glob(_NAME.format("*")))
    return [ProcessFigures(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
