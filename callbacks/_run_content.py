"""What a checkpoint of a run contains besides Lightning's state, and how a resumed run takes it up."""

import json
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.checkpoints.lightning_internals import reopen_epoch, stops_early
from dmaxlit.checkpoints.run_limits import keep_patience
from dmaxlit.checkpoints.run_state import (
    as_of,
    batch_end,
    fingerprint,
    finish_batch,
    recount_batches,
    restore_run,
    run_state,
)
from dmaxlit.errors import DMaxWarning, UserError

_KEY = "dmaxlit_run"  # in the checkpoint


class RunContent:
    """The state that a resumed run has read and not yet restored, and that of the last batch."""

    def __init__(self) -> None:
        self.unrestored: dict[str, Any] | None = None
        self._batch_end: dict[str, Any] | None = None

    def begin(self) -> None:
        """Forget those of an earlier use of the trainer."""
        self.unrestored = self._batch_end = None

    def keep_batch_end(self, trainer: L.Trainer) -> None:
        """Keep the state at the end of a batch, which a checkpoint written after what follows it is given."""
        self._batch_end = batch_end(trainer)

    def add(
        self,
        trainer: L.Trainer,
        checkpoint: dict[str, Any],
        settings: dict[str, Any],
        ended_by: dict[str, Any],
        is_over: bool,
    ) -> None:
        """Add a run's settings, a fingerprint of its data, and its state to a checkpoint.

        Args:
            trainer: The trainer, which trains or validates.
            checkpoint: The checkpoint; changed in place.
            settings: Settings of the run.
            ended_by: The settings that end it, if it was stopped.
            is_over: Whether the checkpoint is written after what followed its step, and is to be as if before.
        """
        checkpoint[_KEY] = {
            "settings": json.dumps(settings),
            "data": fingerprint(trainer),
            "ended_by": json.dumps(ended_by) if stops_early(trainer) else "",
            **run_state(trainer),
        }
        if is_over and self._batch_end and self._batch_end["global_step"] == trainer.global_step:
            as_of(checkpoint, self._batch_end)
        elif is_over and not trainer.is_last_batch:
            reopen_epoch(checkpoint["loops"])

    def read(self, trainer: L.Trainer, checkpoint: dict[str, Any], is_automatic: bool) -> bool:
        """Read that state, to be restored when training starts.

        Args:
            trainer: The trainer.
            checkpoint: The checkpoint; changed in place.
            is_automatic: Whether it was chosen as that of the same run, not named by the user.

        Returns:
            Whether there is such a state.

        Raises:
            UserError: If the same run was trained on other data.
        """
        state = checkpoint.get(_KEY)
        if state is None:
            return False
        if state["data"] != (data := fingerprint(trainer)):
            differs = f"data: expected the rows {trainer.ckpt_path} was trained on ({state['data']}), got {data}"
            if is_automatic:
                raise UserError(f"{differs}; --checkpoint.resume false starts over")
            rank_zero_warn(differs, category=DMaxWarning)
        self.unrestored = state
        recount_batches(trainer, checkpoint["loops"], state)
        finish_batch(checkpoint["loops"], state)
        keep_patience(trainer, checkpoint)
        return True

    def was_ended_by(self, settings: dict[str, Any]) -> bool:
        """Return whether the run that is resumed had been stopped, and by these settings."""
        ended_by = (self.unrestored or {}).get("ended_by") or "null"
        return bool(json.loads(ended_by) == settings)

    def restore(self, trainer: L.Trainer) -> None:
        """Restore the state, on all ranks."""
        assert self.unrestored is not None
        restore_run(trainer, self.unrestored)
