"""Diagnostics of each view of a noise strategy: loss by noise level, calibration on guesses, gradient norms."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.callbacks._module import ModuleChange, require_dmax_module
from dmaxlit.errors import UserError, check_at_least, check_fraction
from dmaxlit.noise import Prediction, View
from dmaxlit.tokens import CleanBatch
from dmaxlit.training.losses import ViewLoss
from dmaxlit.training.step_sums import StepSums, means

__all__ = ["ViewDiagnostics"]


class ViewDiagnostics(ModuleChange):
    """Logs diagnostics of the views of a training step, at the steps at which the trainer logs.

    - ``train/loss_<view>/level_0.00-0.25`` ...: mean cross-entropy of the supervised positions whose noise level is in
      that bin, for every view with levels. A single mean would hide the difference between few and many masks.
    - ``train/accepted_0.9_<view>``, ``train/precision_0.9_<view>``, for views that hold the model's own guesses: how
      often the top-1 prediction has a probability of at least 0.9, and how often such a prediction is right. A decoder
      that ends a block on confidence (SPD's ``tau_acc``) relies on the latter.
    - ``train/grad_norm_<view>``, if enabled: norm of the gradient of the view's term of the loss, per response token of
      the micro-batch. It takes an extra backward pass for each view: at every tenth step of OPUT, it adds about a tenth
      to the training time.

    All are means over the micro-batches of the step and over all ranks.

    Args:
        level_bins: Number of equal bins of [0, 1] for the levels, at least 1.
        confidence: Probability from which a prediction counts as accepted, in [0, 1].
        grad_norm_every_n_steps: Steps between two measurements of gradient norms, at least 0; 0 for none. Steps at
            which the trainer does not log are skipped. Only for one device or ``ddp``, where each rank holds all
            gradients, and not for compiled training, whose graph serves one backward pass.
    """

    def __init__(self, level_bins: int = 4, confidence: float = 0.9, grad_norm_every_n_steps: int = 0) -> None:
        super().__init__()
        check_at_least(1, level_bins=level_bins)
        check_at_least(0, grad_norm_every_n_steps=grad_norm_every_n_steps)
        self.level_bins = level_bins
        self.confidence = check_fraction("confidence", confidence)
        self.grad_norm_every_n_steps = grad_norm_every_n_steps
        self._trainer: L.Trainer | None = None
        self._sums = StepSums()
        self._totals: list[tuple[str, Tensor]] = []
        self._step = 0

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Start watching the views of the module."""
        if stage != "fit":
            return
        require_dmax_module(self, pl_module)
        every = self.grad_norm_every_n_steps
        if every and not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            name = type(trainer.strategy).__name__
            raise UserError(f"grad_norm_every_n_steps: expected 0 unless on one device or ddp, got {name}")
        if every and pl_module.backbone.compiles_training:
            raise UserError(f"grad_norm_every_n_steps: expected 0 with model.compile, got {every}")
        self._trainer = trainer
        if self._watch not in pl_module.view_watchers:
            pl_module.view_watchers.append(self._watch)

    def undo(self, pl_module: Any) -> None:
        """Stop watching, and forget what was seen since figures were last logged."""
        self._trainer, self._sums, self._totals = None, StepSums(), []
        if self._watch in pl_module.view_watchers:
            pl_module.view_watchers.remove(self._watch)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the step that training begins with."""
        self._step = trainer.global_step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Forget the losses of a micro-batch that was skipped, which hold on to its graph."""
        self._totals = []

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Compute the gradient norm of each view, while the graph exists."""
        totals, self._totals = self._totals, []
        parameters = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # of 16-mixed, where small gradients would be 0
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        for name in sorted({name for name, _ in totals}):
            total = torch.stack([total for view, total in totals if view == name]).sum()
            gradients = torch.autograd.grad(total * scale, parameters, retain_graph=True, allow_unused=True)
            norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
            norm = torch.linalg.vector_norm(torch.stack(norms)) / scale
            self._sums.add(f"train/grad_norm_{name}", norm, torch.ones(()))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the means at the end of the step."""
        if trainer.global_step == self._step:  # more micro-batches of the step are to come
            return
        self._step = trainer.global_step
        if not self._sums or not self._logs_after(trainer.global_step):
            return
        for name, mean in means(self._sums.reduced(trainer)).items():
            pl_module.log(name, mean, on_step=True, on_epoch=False)

    def _watch(self, view: View, prediction: Prediction, loss: ViewLoss, clean: CleanBatch) -> None:
        """Add a view's figures at a step that will be logged."""
        trainer = self._trainer
        if trainer is None or not self._logs_after(trainer.global_step + 1):
            return
        every = self.grad_norm_every_n_steps
        if every and (trainer.global_step + 1) % every == 0 and loss.total.requires_grad:
            self._totals.append((view.name, loss.total / clean.in_loss.sum().clamp(min=1)))
        in_loss = clean.in_loss[prediction.positions]
        cross_entropy, confidence, right = (values[in_loss] for values in _score(prediction, clean))
        if view.level is not None:
            self._add_by_level(view.name, view.level[prediction.positions][in_loss], cross_entropy)
        if view.model_filled is not None:
            accepted = confidence >= self.confidence
            count = torch.full_like(confidence[:1].sum(), accepted.numel())
            self._sums.add(f"train/accepted_{self.confidence:g}_{view.name}", accepted.sum(), count)
            self._sums.add(f"train/precision_{self.confidence:g}_{view.name}", (accepted & right).sum(), accepted.sum())

    def _add_by_level(self, name: str, level: Tensor, cross_entropy: Tensor) -> None:
        bins = (level * self.level_bins).long().clamp(0, self.level_bins - 1)
        for index in range(self.level_bins):
            low, high = index / self.level_bins, (index + 1) / self.level_bins
            within = bins == index
            self._sums.add(f"train/loss_{name}/level_{low:.2f}-{high:.2f}", cross_entropy[within].sum(), within.sum())

    def _logs_after(self, step: int) -> bool:
        every = int(getattr(self._trainer, "log_every_n_steps", 0))
        return every > 0 and step > 0 and step % every == 0


def _score(prediction: Prediction, clean: CleanBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Compute cross-entropy, top-1 probability and whether the top-1 token is right, of each position, ``[n]``."""

    def score(logits: Tensor, target: Tensor) -> Tensor:
        logits = logits.float()
        top, token = logits.max(-1)
        loss, confidence = F.cross_entropy(logits, target, reduction="none"), (top - logits.logsumexp(-1)).exp()
        return torch.stack([loss, confidence, (token == target).float()], 1)

    cross_entropy, confidence, right = prediction.map(score, clean.ids[prediction.positions]).unbind(1)
    return cross_entropy, confidence, right > 0
