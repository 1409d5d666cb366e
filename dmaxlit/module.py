"""The LightningModule that connects backbone, noise strategy and loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW
from transformers import PreTrainedTokenizerBase

from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.frozen_features import check_layer
from dmaxlit.backbone.hidden_matrices import mark_hidden_matrices
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.backbone.sharding import unsharded
from dmaxlit.backbone.training_forward import TrainingForward
from dmaxlit.checkpoints.lightning_internals import is_attached, load_loader_states
from dmaxlit.checkpoints.provenance import ProvenanceMixin
from dmaxlit.engine.mixin import GenerationMixin
from dmaxlit.errors import UserError, check_choice, describe_value
from dmaxlit.factory import make_by_name
from dmaxlit.files import expanded
from dmaxlit.noise import NOISE, NoiseStrategy, Prediction, View, dialogue
from dmaxlit.randomness import RowGenerator, run_seed, seed_generators
from dmaxlit.tokens import CleanBatch, SpecialTokens
from dmaxlit.training.auxiliary_prediction import auxiliary_prediction
from dmaxlit.training.callback_settings import check_callbacks
from dmaxlit.training.configure_optimizers import configure_optimizers
from dmaxlit.training.frozen_copy import FrozenCopyMixin
from dmaxlit.training.losses import ViewLoss, view_loss
from dmaxlit.training.lr_schedules import steps_of_run
from dmaxlit.training.objective import VIEWS, objective_of
from dmaxlit.training.prediction import ChunkedPrediction, OutputHead
from dmaxlit.training.row_slots import row_slots
from dmaxlit.training.sharded_module import local_gradients, prepare_backbone
from dmaxlit.training.step_mean import StepMean
from dmaxlit.training.view_checks import ViewChecks


class DMaxModule(  # type: ignore[misc]  # load_from_checkpoint
    GenerationMixin, FrozenCopyMixin, ProvenanceMixin, L.LightningModule
):
    """A block-diffusion language model trained on the views of a noise strategy.

    ``loss = sum over views v, positions i of w_v(i) * -log p(x_0[i] | v) / N`` with N the response tokens of the global
    batch (all ranks, all accumulated micro-batches), so that neither changes the gradient.

    Args:
        backbone: The denoiser: any decoder-only transformers model.
        noise: The noise strategy, or its registered name.
        optimizer: Creates the optimiser from the named parameters.
        lr_scheduler: Creates the learning-rate schedule from the optimiser; advanced once a step.
        seed: Seed of corruption and rollout. Default: the run's (``seed_everything``), or 0.
        clean_half: ``cached``: the clean copy of a batch is computed once and every view attends to it. ``doubled``:
            each view runs on the doubled sequence; the reference form, with the same loss at twice the work.
        lora: Train low-rank adapters and the mask embedding instead of all weights.
        auxiliary: Train an auxiliary autoregressive model (CoDiLA) on the marginals of the denoiser, which is frozen.
        compile: Train with compiled forwards (``torch.compile``). The first steps then take minutes.
        check_noise: Check the views of a noise strategy of your own in the first steps.
        frozen_copy: Where the frozen copy of the first layers is, which some noise strategies take features from:
            ``device``, or ``offloaded`` to main memory between two batches. With ``lora`` there is no copy.
    """

    def __init__(
        self,
        backbone: Denoiser,
        noise: NoiseStrategy | str = "on_policy",
        optimizer: OptimizerCallable = AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
        clean_half: Literal["cached", "doubled"] = "cached",
        lora: LoraSettings | None = None,
        auxiliary: AuxiliarySettings | None = None,
        compile: bool = False,
        check_noise: bool = True,
        frozen_copy: Literal["device", "offloaded"] = "device",
    ) -> None:
        super().__init__()
        if not isinstance(backbone, Denoiser):  # the command line makes one where the annotation says so
            raise UserError(
                f"backbone: expected a Denoiser, and annotated so in a subclass, got {describe_value(backbone)}"
            )
        self.clean_half = check_choice("clean_half", clean_half, ("cached", "doubled"))
        self.backbone = backbone
        if lora is not None:
            backbone.add_lora(lora)
        if auxiliary is not None:
            backbone.train_auxiliary(auxiliary)
        if compile:
            backbone.compile_training()
        self.noise: NoiseStrategy = (
            make_by_name("noise", NOISE, NoiseStrategy, noise, {}) if isinstance(noise, str) else noise
        )
        if not isinstance(self.noise, NoiseStrategy):
            raise UserError(f"noise: expected a strategy or its registered name, got {describe_value(noise)}")
        if self.noise.feature_layer is not None:
            check_layer(backbone.model, self.noise.feature_layer)
        self.frozen_copy = check_choice("frozen_copy", frozen_copy, ("device", "offloaded"))
        self.check_noise = check_noise
        self._view_checks = ViewChecks(self.noise, check_noise)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.seed = run_seed() if seed is None else seed
        self._read_provenance()
        self.training_block_length: int | None = None  # of the training grid, while it is not the model's
        self._step_mean = StepMean()
        #: Called with each view of a training step, its prediction, its loss and the clean batch; for callbacks.
        self.view_watchers: list[Callable[[View, Prediction, ViewLoss, CleanBatch], None]] = []

    # ---- model ------------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, saved with every checkpoint and export."""
        return self.backbone.tokenizer

    @property
    def special(self) -> SpecialTokens:
        """The special token ids."""
        return self.backbone.special

    def export(self, folder: str | Path) -> None:
        """Write a folder that :func:`dmaxlit.load` and transformers both read.

        Under a trainer every rank may call this, and must if the model is sharded; rank zero writes.

        Args:
            folder: The folder; an earlier export there is replaced.
        """
        self.backbone.save(
            Path(expanded(folder)), self.metadata(), not is_attached(self) or self.trainer.is_global_zero
        )

    def trained_on(self) -> dict[str, str]:
        """Return what the module is trained on: ``noise``, the strategy's name, or a callback's ``objective``."""
        objective = objective_of(cast(Any, self.trainer).callbacks) if is_attached(self) else VIEWS
        return super().trained_on() if objective == VIEWS else {"objective": objective.name}

    # ---- training ---------------------------------------------------------------------------------------------------

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the training loss of a batch in nats per response token, a scalar with gradients.

        A subclass may add to it in ``training_step``; another LightningModule that contains this one may use it in its
        own. In an optimiser step of this module each micro-batch weighs as many tokens as its responses hold.

        Args:
            batch: ``ids`` and ``roles``, ``[batch, length]``, and ``index``, ``[batch]``.
        """
        clean = self.clean_batch(batch)
        losses = self.view_losses(clean, self.row_generator(batch, clean))
        count = clean.in_loss.sum()
        if self._is_trained() and torch.is_grad_enabled():
            self._step_mean.record(self.trainer, losses, count)
        return torch.stack([loss.total for loss in losses]).sum() / count.clamp(min=1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of this micro-batch in nats per response token.

        Args:
            batch: ``ids`` and ``roles``, ``[batch, length]``, and ``index``, ``[batch]``.
            batch_idx: Index of the micro-batch in the epoch.
        """
        return self.loss(batch)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Weight a micro-batch by its response tokens: the update then does not depend on how rows are divided.

        Args:
            loss: What ``training_step`` returned.
            *args: Passed on.
            **kwargs: Passed on.
        """
        weight = self._step_mean.weight(self.trainer) if self._is_trained() else None
        super().backward(loss if weight is None else loss * weight, *args, **kwargs)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Do nothing: callbacks decode the batch's ``examples``, and Lightning's loops need this method."""

    test_step = predict_step = validation_step

    def clean_batch(self, batch: dict[str, Any]) -> CleanBatch:
        """Return the batch as noise strategies receive it."""
        length = self.training_block_length or self.backbone.block_length
        return CleanBatch(batch["ids"], batch["roles"], length, self.special, self._trainer_step("global_step"))

    def row_generator(
        self, batch: dict[str, Any], clean: CleanBatch, places: tuple[list[int], int] | None = None
    ) -> RowGenerator:
        """Return the randomness of a batch, keyed by epoch and row, whatever the rank, worker or micro-batch.

        Args:
            batch: The batch; its ``index`` identifies the rows, and which time one comes that comes again in an epoch.
            clean: The same as a clean batch.
            places: Index of each row among all rows of the optimiser step, and the number of these; default: those of
                the current micro-batch while training, else those of the batch.
        """
        if places is None and is_attached(self) and self.trainer.training:
            places = row_slots(self.trainer, clean.ids.shape[0], self.trainer.fit_loop.batch_idx)
        slots, num_slots = places or (None, None)
        epoch = self._trainer_step("current_epoch")
        keys: list[object] = [(epoch, index) for index in batch["index"].tolist()]
        return RowGenerator(self.seed, keys, slots, num_slots, batch_key=clean.step, device=clean.ids.device)

    def view_losses(self, clean: CleanBatch, generator: RowGenerator) -> list[ViewLoss]:
        """Evaluate the views of the noise strategy; return one loss for each view, in order."""
        forward = TrainingForward(self.backbone, clean, doubled=self.clean_half == "doubled")
        losses: list[ViewLoss] = []
        if self._view_checks.strategy is not self.noise:  # replaced since the module was made
            self._view_checks = ViewChecks(self.noise, self.check_noise)
        checks = self._view_checks
        views = checks.begin(self.noise.views(clean, generator), clean)
        turns = dialogue(
            views,
            lambda view: self.predict_view(checks.check(view), forward),
            lambda request: self.frozen_features()(clean, request.ids),
        )
        for view, prediction in turns:
            losses.append(view_loss(view, prediction, clean, checks.check_value if checks.is_due else None))
            for watch in self.view_watchers:
                watch(view, prediction, losses[-1], clean)
            del view, prediction  # or the logits would be kept while the next view is predicted
        self.release_features()
        checks.end(len(losses))
        return losses

    def predict_view(self, view: View, forward: TrainingForward) -> Prediction:
        """Predict the supervised positions of a view; without gradients and dropout if it has no part in the loss."""
        with torch.set_grad_enabled(view.requires_grad and torch.is_grad_enabled()):
            compute = forward if view.requires_grad else forward.evaluate
            if self.backbone.trains_auxiliary:
                hidden = compute(view.ids, view.soft, view.groups)
                return auxiliary_prediction(self.backbone, hidden, view, forward.clean)
            hidden = compute(view.ids, view.soft, view.groups, at=view.supervised)
            return ChunkedPrediction(hidden, view.supervised, OutputHead(self.backbone, view.requires_grad))

    def on_fit_start(self) -> None:
        """Let each of several ranks draw its own dropout: ``seed_everything`` seeds them alike.

        Where a checkpoint has the state of the generators, :class:`~dmaxlit.callbacks.RunCheckpoint` restores it later.
        """
        super().on_fit_start()
        if self.trainer.world_size > 1:
            seed_generators("rank", run_seed(), self.trainer.global_rank, self.trainer.global_step)

    def on_train_start(self) -> None:
        """Let the rows of a resumed run go on where they were, also if the schedule had them counted before.

        What a run before left of a step, which an error or Ctrl-C ended before its update, is forgotten.
        """
        load_loader_states(self.trainer)
        self._step_mean = StepMean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn summed gradients into the mean over the response tokens of the global batch; log the step's figures.

        Gradients are clipped after this.
        """
        figures = self._step_mean.finish(self.trainer, local_gradients(optimizer))
        for name, value in figures.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss")

    def configure_optimizers(self) -> Any:
        """Create the optimiser and the schedule, which is advanced each step, or each epoch if it monitors a metric."""
        mark_hidden_matrices(self)  # MuonAdamW receives parameters, not layers
        trainable = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        return configure_optimizers(trainable, self.optimizer, self.lr_scheduler, lambda: steps_of_run(self.trainer))

    def _is_trained(self) -> bool:
        """Return whether a trainer is training this module itself, not one that contains it."""
        return is_attached(self) and self.trainer.training and self.trainer.lightning_module is self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a run: a copy, as weight averaging makes one, is not watched."""
        return {**super().__getstate__(), "view_watchers": [], "_step_mean": StepMean()}

    def __deepcopy__(self, memo: dict[int, Any]) -> DMaxModule:
        """Copy all but what makes optimiser and schedule: of the command line, it holds on to the whole run."""
        memo |= {id(shared): shared for shared in (self.optimizer, self.lr_scheduler)}
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]
        return copied

    # ---- sharding ---------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Shard the model if the strategy does, and read its weights if that was deferred."""
        if self.trainer.training:
            check_callbacks(self.trainer)
        prepare_backbone(self, self.backbone)
        if self.trainer.training:
            self.begin_frozen_copy()

    def unsharded(self) -> AbstractContextManager[None]:
        """Return a context in which ranks may decode independently, also a sharded model; every rank must enter it."""
        return unsharded(self.backbone)

    def on_validation_epoch_start(self) -> None:
        """Gather a sharded model, so that callbacks may decode."""
        self._decoding = ExitStack()
        self._decoding.enter_context(self.unsharded())

    def on_validation_epoch_end(self) -> None:
        """Shard it again."""
        self._decoding.close()

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end
