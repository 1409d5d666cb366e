"""Blocks that grow while an autoregressive model becomes a block-diffusion model."""

from typing import Any

import lightning as L

from dmaxlit.errors import UserError

__all__ = ["BlockWarmup"]


class BlockWarmup(L.Callback):
    """Trains on a finer block grid at first: blocks of 1, then 4, ... up to the model's own length.

    In blocks of one token every mask sees all the text before it and nothing after, as in the autoregressive model that
    training starts from; only that the mask itself, not the token before it, is asked for the token. Longer blocks
    then bring in more and more text yet unknown. (LLaDA2.0, arXiv 2512.15745, Section 3: 1 -> 4 -> 32 -> ...)

    Only attention and noise see the finer grid. Rows are filled up to the model's own blocks from the start, and
    decoding, validation and exports use those. The length is a function of the optimiser step alone, so a resumed run
    goes on where it was. Logged as ``train/block_length``.

    Args:
        stages: First step of each stage and its block length; the first stage begins at step 0, lengths grow, each
            divides the model's, and the last is the model's. ``{0: 1, 100: 4, 200: 16, 300: 32}``

    Raises:
        UserError: If not; what concerns the model's block length, when ``fit`` starts.
    """

    def __init__(self, stages: dict[int, int]) -> None:
        super().__init__()
        self.stages = {int(step): int(stages[step]) for step in sorted(stages)}
        lengths = list(self.stages.values())
        if not lengths or min(self.stages) != 0:
            raise UserError(f"stages: expected a first stage that begins at step 0, got steps {sorted(stages)}")
        if lengths[0] < 1 or lengths != sorted(set(lengths)):
            raise UserError(f"stages: expected block lengths of at least 1 that grow, got {lengths}")

    def at(self, step: int) -> int:
        """Block length at an optimiser step."""
        return self.stages[max(start for start in self.stages if start <= step)]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare with the model's block length.

        Raises:
            UserError: If the stages do not lead to it.
        """
        module: Any = pl_module
        final, lengths = module.backbone.block_length, list(self.stages.values())
        if lengths[-1] != final or any(final % length for length in lengths):
            raise UserError(
                f"stages: expected divisors of the model's block length {final} that end with it, got {lengths}"
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the grid of the step to come."""
        module: Any = pl_module
        module.training_block_length = self.at(trainer.global_step)
        module.log("train/block_length", float(module.training_block_length), batch_size=1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the model's own grid."""
        module: Any = pl_module
        module.training_block_length = None
