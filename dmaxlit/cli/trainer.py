"""Lightning's trainer with a ``predict`` that writes the answers to a file."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from dmaxlit.callbacks import DecoderSpec, PredictionWriter
from dmaxlit.errors import UserError
from dmaxlit.files import expanded, refuse_address
from dmaxlit.locks import exclusive

_OUTPUT = "predictions.jsonl"


class DMaxTrainer(Trainer):
    """Lightning's trainer; see :class:`lightning.pytorch.Trainer` for its settings."""

    #: The settings of the run; see :func:`~dmaxlit.evaluation.hyperparameters.hyperparameters_of`.
    hyperparameters: dict[str, Any] | None = None

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = False,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
        output: str | None = None,
        decoder: str = "spd",
        decoder_options: dict[str, Any] | None = None,
        window: int = 1,
        admission: str = "progress",
        admission_options: dict[str, Any] | None = None,
        max_new_tokens: int | None = None,
        check_decoder: bool = True,
    ) -> Any:
        """Decode the test prompts and write each answer to a file.

        Args:
            model: The model.
            dataloaders: Loaders, in place of a data module.
            datamodule: The data module.
            return_predictions: Not used: answers are written, not returned.
            ckpt_path: Checkpoint to take the weights from; default: the model as configured.
            weights_only: Whether to refuse checkpoints that hold more than plain data.
            output: File to write, one JSON object a line, replaced if it exists. Default: predictions.jsonl in
                trainer.default_root_dir, if that is set.
            decoder: Registered name of the decoder, or import path of your own.
            decoder_options: Options of the decoder, also as --decoder.tau_dec 0.3.
            window: Most blocks of a prompt that are open at once.
            admission: Registered name of the policy that says when a window takes in the next block, or import path of
                your own.
            admission_options: Options of the policy, also as --admission.theta 0.8.
            max_new_tokens: Budget of tokens for an answer, EOS included. Default: the task's.
            check_decoder: Check what a decoder of your own returns in the first forwards.

        Raises:
            UserError: If neither a file nor the run's folder is given, that is an address such as s3://..., or another
                process writes the file.
        """
        self.write_nothing_unasked()
        if output is None and not self._has_run_folder:
            raise UserError("output: expected a file to write the answers to, got none")
        if output is None:
            refuse_address(self.default_root_dir, "trainer.default_root_dir", "; --output names a file of answers")
        path = Path(self.default_root_dir) / _OUTPUT if output is None else Path(expanded(output))
        spec = DecoderSpec(
            decoder,
            decoder_options or {},
            check_decoder=check_decoder,
            window=window,
            admission=admission,
            admission_options=admission_options or {},
        )
        cast(Any, self).callbacks.append(PredictionWriter(str(path), spec, max_new_tokens))
        with exclusive(path, "output") if self.is_global_zero else nullcontext():
            return super().predict(model, dataloaders, datamodule, return_predictions, ckpt_path, weights_only)

    @property
    def _has_run_folder(self) -> bool:
        return Path(self.default_root_dir).absolute() != Path.cwd()  # where Lightning writes by default

    def write_nothing_unasked(self) -> None:
        """Leave out what would write logs and the configuration to the current folder."""
        if self._has_run_folder:
            return
        trainer = cast(Any, self)
        trainer.loggers = [logger for logger in self.loggers if logger.save_dir != self.default_root_dir]
        if not self.loggers:  # the configuration is written next to the logs
            trainer.callbacks = [
                callback for callback in trainer.callbacks if not isinstance(callback, SaveConfigCallback)
            ]
