"""The settings of a run in its loggers, beside its figures."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from dmaxlit.callbacks._decode_tags import BEST_TPF
from dmaxlit.callbacks.comparison_report import ComparisonReport
from dmaxlit.checkpoints.tensorboard_internals import declare_hyperparameters
from dmaxlit.evaluation.hyperparameters import hyperparameters_of
from dmaxlit.evaluation.validation_batches import is_dry_run

__all__ = ["HyperparameterLog"]

_AT_A_GLANCE = (f"/{BEST_TPF}", "/accuracy", "/tpf")


class HyperparameterLog(L.Callback):
    """Writes the settings of a run to its loggers, so that the figures of several runs can be compared by them.

    Weights & Biases gets them as its config when training starts, and the CSV logger's folder as ``hparams.yaml``. From
    the first validation on, or from the end of a run without one, TensorBoard shows them under HPARAMS beside the last
    values of ``train/loss``, of every figure that is not of training, and of what
    :class:`~dmaxlit.callbacks.ComparisonReport` measures. The settings are those of the configuration, without folders,
    callbacks and loggers.

    Does nothing under ``fast_dev_run``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_declared = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the settings to the loggers that need no figures with them."""
        self._is_declared = False
        if trainer.is_global_zero and not is_dry_run(trainer):
            settings = hyperparameters_of(trainer, pl_module)
            for logger in trainer.loggers:
                if not isinstance(logger, TensorBoardLogger):
                    logger.log_hyperparams(settings)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the settings in TensorBoard, once the figures have names."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._declare(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show them for a run without validation."""
        self._declare(trainer, pl_module)

    def _declare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._is_declared or not trainer.is_global_zero or is_dry_run(trainer):
            return
        self._is_declared = True
        tags = [tag for tag in trainer.callback_metrics if not tag.startswith("train/")]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ComparisonReport):
                tags += callback.tags()
        tags = sorted(tags, key=lambda tag: not tag.endswith(_AT_A_GLANCE))  # the first ones are shown at once
        tags += [tag for tag in trainer.callback_metrics if tag == "train/loss"]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                declare_hyperparameters(logger, hyperparameters_of(trainer, module), tags)
