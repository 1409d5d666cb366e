"""Everything dmaxlit uses of TensorBoard beyond its documented interface, in one place.

``tests/checkpoints/test_tensorboard_internals.py`` says what to mend when a release changes it.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from dmaxlit.errors import DMaxWarning


def outlive_full_disks() -> None:
    """Let a log that cannot be written end with a warning instead of ending the run: weights matter more than curves.

    TensorBoard writes in a thread, which would print a traceback and let a later call fail. Relies on
    ``event_file_writer.RecordWriter``, of which every event file makes one.
    """
    event_file_writer.RecordWriter = _LastingRecordWriter


def declare_hyperparameters(logger: TensorBoardLogger, settings: Mapping[str, Any], tags: Sequence[str]) -> None:
    """Show settings in the tab HPARAMS, beside the last value of each tag that this log has or will have.

    TensorBoard keeps the first declaration of a log. Relies on ``hparams`` of torch, which makes it, and on
    ``SummaryWriter.file_writer``; Lightning's and torch's own functions would log a value of each tag too.

    Args:
        logger: The log.
        settings: JSON values by dotted names.
        tags: Tags of figures.
    """
    plain = {
        name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for name, value in settings.items()
    }
    for summary in hparams(plain, dict.fromkeys(tags, 0.0)):  # type: ignore[no-untyped-call]
        logger.experiment.file_writer.add_summary(summary)


class _LastingRecordWriter(RecordWriter):  # type: ignore[misc]
    """Writes records up to the first error of the system; a record behind half a one could not be read."""

    _has_failed = False

    def write(self, data: bytes) -> None:
        """Append a record."""
        self._attempt(super().write, data)

    def flush(self) -> None:
        """Write what is buffered."""
        self._attempt(super().flush)

    def close(self) -> None:
        """Close the file."""
        self._attempt(super().close)

    def _attempt(self, action: Any, *args: Any) -> None:
        if self._has_failed:
            return
        try:
            action(*args)
        except OSError as error:
            self._has_failed = True
            reason = error.strerror or error
            warnings.warn(f"TensorBoard's log ends here, it cannot be written ({reason})", DMaxWarning, stacklevel=2)
