"""The mean over the response tokens of an optimiser step, whatever its micro-batches and ranks."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.training.losses import ViewLoss, rates
from dmaxlit.training.step_sums import StepSums

# Gradients are sums over tokens, divided by the number of all tokens only before the update. Until then this unit
# keeps them small enough for half precision.
_UNIT = 1024.0
# Sums of this file's own, beside the figures of the step, which have names without spaces.
_TOKENS, _MICRO_BATCHES = "response tokens", "micro-batches that recorded losses"


class StepMean:
    """Weights the loss of each micro-batch by its response tokens, and collects the figures of the step.

    A training step returns a mean, and Lightning averages over micro-batches and ranks. Where these differ in their
    number of tokens, the result would depend on how rows are divided. So the backward pass weights each micro-batch by
    its tokens, and the gradient is divided by the tokens of all of them before the update::

        gradient = sum over micro-batches k of tokens_k * gradient of loss_k / sum over k of tokens_k
    """

    def __init__(self) -> None:
        self._sums = StepSums()
        self._micro_batch: tuple[object, list[tuple[list[ViewLoss], Tensor]]] = (None, [])
        self._step: int | None = None  # that the sums belong to

    def record(self, trainer: L.Trainer, losses: list[ViewLoss], count: Tensor) -> None:
        """Note the losses of some rows of the current micro-batch.

        Args:
            trainer: The trainer.
            losses: Losses of the views.
            count: Number of response tokens, a scalar.

        Raises:
            UserError: If the gradients of the last step were not divided.
        """
        if self._step not in (None, trainer.global_step):
            raise UserError(
                "on_before_optimizer_step: expected a subclass to call super().on_before_optimizer_step(optimizer), "
                "which divides the gradients by the number of tokens; it was not called"
            )
        key, records = self._micro_batch
        if key != (now := _micro_batch_key(trainer)):  # the last one was skipped
            records = []
        self._micro_batch = now, [*records, (losses, count)]

    def weight(self, trainer: L.Trainer) -> Tensor | None:
        """Return what the loss of the current micro-batch is to be multiplied by before its backward pass.

        It is None if the micro-batch recorded no losses, and so has no number of tokens.
        """
        key, records = self._micro_batch
        self._micro_batch, self._step = (None, []), trainer.global_step
        one = torch.ones((), device=trainer.strategy.root_device, dtype=torch.float32)
        if key != _micro_batch_key(trainer) or not records:
            self._sums.add(_MICRO_BATCHES, 0 * one, one)
            return None
        self._sums.add(_MICRO_BATCHES, one, one)
        for losses, count in records:
            self._sums.add(_TOKENS, count, torch.zeros_like(count))
            for name, pair in _figures(losses, count).items():
                self._sums.add(name, *(value.to(one.device) for value in pair))  # a strategy's own may be elsewhere
        return torch.stack([count for _, count in records]).sum() / _UNIT

    def finish(self, trainer: L.Trainer, gradients: list[Tensor]) -> dict[str, Tensor]:
        """Divide the summed gradients by the tokens of the step; return its figures, the same on all ranks.

        Lightning has divided by the number of accumulated micro-batches and averaged over ranks; this undoes both.

        Args:
            trainer: The trainer.
            gradients: This process's gradients; changed in place.

        Raises:
            UserError: If only some of the micro-batches recorded losses.
        """
        self._step = None
        pairs = self._sums.reduced(trainer)
        if _TOKENS not in pairs:  # none recorded losses, or all were skipped
            return {}
        weighted, micro_batches = pairs.pop(_MICRO_BATCHES)
        tokens, _ = pairs.pop(_TOKENS)
        scale = _UNIT * trainer.accumulate_grad_batches / (tokens.clamp(min=1) / trainer.world_size)
        number, recorded, all_of_step = torch.stack([scale, weighted, micro_batches]).tolist()  # read at once
        _multiply(gradients, number)
        if recorded != all_of_step:
            raise UserError(
                "training_step: expected every micro-batch of an optimiser step to call loss(), or none, got "
                f"{recorded:.0f} of {all_of_step:.0f}"
            )
        return rates(pairs)


def _multiply(gradients: list[Tensor], number: float) -> None:
    wide = [gradient for gradient in gradients if gradient.itemsize >= 4]
    if wide:
        torch._foreach_mul_(wide, number)
    for gradient in gradients:
        if gradient.itemsize < 4:  # together, the number itself would be rounded to 16 bits
            gradient.mul_(number)


def _figures(losses: list[ViewLoss], count: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    total = torch.stack([loss.total for loss in losses]).sum()
    figures = {"loss": (total, count)}
    for loss in losses:
        for name, (value, number) in loss.sums().items():
            before = figures.get(name)
            figures[name] = (value, number) if before is None else (before[0] + value, before[1] + number)
    return figures


def _micro_batch_key(trainer: L.Trainer) -> Any:
    return trainer.current_epoch, trainer.fit_loop.batch_idx
