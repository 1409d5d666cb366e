"""Blocks that grow while an autoregressive model becomes a block-diffusion model."""

from typing import Any, ClassVar

import lightning as L

from dmaxlit.callbacks._module import ModuleChange, require_dmax_module
from dmaxlit.errors import UserError

__all__ = ["BlockWarmup"]


class BlockWarmup(ModuleChange):
    """Trains with short blocks first: blocks of 1 token, then 4, ..., up to the block length of the model.

    In blocks of one token every mask attends to all the text before it and to nothing after it, as in the
    autoregressive model that training starts from, but the token is predicted at the mask, not at the token before it.
    Longer blocks then hide more and more of the text. (LLaDA2.0, arXiv 2512.15745, Section 3: 1 -> 4 -> 32 -> ...)

    Only attention and noise use the short blocks. Rows are padded to the model's block length from the start, and
    decoding, validation and exports use that length. The length depends on the optimiser step alone, so a resumed run
    continues with the right one. It is logged as ``train/block_length``.

    Args:
        stages: First step and block length of each stage, as in ``{0: 1, 100: 4, 200: 16, 300: 32}``. The first stage
            begins at step 0, lengths grow, each divides the model's block length, and the last one equals it.

    Raises:
        UserError: If the stages break one of these rules; those about the model's block length are checked when ``fit``
            starts. So is that no auxiliary model is trained: in short blocks the frozen denoiser would see tokens of
            the span whose marginals it gives.
    """

    training_options: ClassVar[tuple[str, ...]] = ("stages",)

    def __init__(self, stages: dict[int, int]) -> None:
        super().__init__()
        self.stages = {int(step): int(stages[step]) for step in sorted(stages)}
        lengths = list(self.stages.values())
        if not lengths or min(self.stages) != 0:
            raise UserError(f"stages: expected a first stage that begins at step 0, got steps {sorted(stages)}")
        if lengths[0] < 1 or lengths != sorted(set(lengths)):
            raise UserError(f"stages: expected block lengths of at least 1 that grow, got {lengths}")

    def at(self, step: int) -> int:
        """Return the block length at an optimiser step."""
        return self.stages[max(start for start in self.stages if start <= step)]

    def check(self, block_length: int) -> None:
        """Refuse stages that do not fit the model's block length.

        Raises:
            UserError: If the last one differs from it, or one does not divide it.
        """
        lengths = list(self.stages.values())
        if lengths[-1] != block_length or any(block_length % length for length in lengths):
            raise UserError(
                f"stages: expected divisors of the model's block length {block_length} that end with it, got {lengths}"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the stages against the model's block length, and what is trained.

        Raises:
            UserError: If the last stage differs from it, or a stage does not divide it, or an auxiliary model is
                trained.
        """
        require_dmax_module(self, pl_module)
        module: Any = pl_module
        if module.backbone.trains_auxiliary:
            raise UserError("auxiliary: expected none with BlockWarmup, which is to adapt the denoiser, got one")
        self.check(module.backbone.block_length)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the block length of the coming step."""
        module: Any = pl_module
        module.training_block_length = self.at(trainer.global_step)
        module.log("train/block_length", float(module.training_block_length), batch_size=1)

    def undo(self, pl_module: L.LightningModule) -> None:
        """Restore the model's block length."""
        module: Any = pl_module
        module.training_block_length = None
