"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with our module and data."""

from contextlib import ExitStack
from pathlib import Path
from traceback import walk_tb
from typing import Any, cast

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from dmaxlit.callbacks import FiniteGuard, RunCheckpoint, SPDValidation
from dmaxlit.checkpoints.atomic_io import AtomicCheckpointIO
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.checkpoints.lightning_internals import is_unknown_monitor
from dmaxlit.checkpoints.plain_data import guard_strategy
from dmaxlit.checkpoints.resumable import check_resumable
from dmaxlit.checkpoints.run_folder import refuse_links
from dmaxlit.checkpoints.run_limits import refuse_shorter
from dmaxlit.checkpoints.tensorboard_internals import outlive_full_disks
from dmaxlit.cli.base_configs import expand_bases
from dmaxlit.cli.checkpoint_names import resolve_checkpoint
from dmaxlit.cli.class_names import CLASS_OPTIONS, expand_class_names
from dmaxlit.cli.jsonargparse_internals import plain_settings
from dmaxlit.cli.known_warnings import silence_known_warnings
from dmaxlit.cli.log_folders import log_folders
from dmaxlit.cli.messages import one_line
from dmaxlit.cli.model_class import split_model_class
from dmaxlit.cli.model_flag import expand_model_flag, model_argument
from dmaxlit.cli.option_help import show_option_help
from dmaxlit.cli.resume import (
    find_checkpoint,
    hyperparameters,
    refuse_other_weights,
    refuse_sharded,
    run_settings,
    stop_settings,
)
from dmaxlit.cli.run_callbacks import default_callbacks, direct_checkpoints, run_checkpoints_of
from dmaxlit.cli.run_config import RunConfigCallback
from dmaxlit.cli.trainer import DMaxTrainer
from dmaxlit.cli.training_parser import DESCRIPTIONS, Parser, parse_settings
from dmaxlit.data.datamodule import SelfDistilledDataModule
from dmaxlit.data.resumable_jsonl import output_path
from dmaxlit.errors import UserError, check_at_least, renaming_argument
from dmaxlit.evaluation.validation_batches import is_dry_run
from dmaxlit.files import expanded, refuse_address
from dmaxlit.locks import exclusive_folder
from dmaxlit.module import DMaxModule
from dmaxlit.tasks import Split
from dmaxlit.training.fsdp import FSDP2Strategy


def run(command: str, args: list[str]) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``."""
    module, others = split_model_class(args)
    run_cli(command, others, module)


def run_cli(
    command: str, args: list[str], module: type[DMaxModule] = DMaxModule, cli: type[LightningCLI] | None = None
) -> Any:
    """Run a command with a module class, and return the CLI's model.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        args: The arguments after the command.
        module: Class of the model.
        cli: Class of the command line; default: :class:`DMaxCLI`.
    """
    silence_known_warnings()
    show_option_help(args, ["--data.task", *(["--decoder", "--admission"] if command == "predict" else [])])
    outlive_full_disks()
    model_name = model_argument(args)
    args = expand_model_flag(expand_bases(args))
    try:
        with renaming_argument(model_name, "pretrained"):
            command_line = (cli or DMaxCLI)(
                module,
                SelfDistilledDataModule,
                save_config_callback=RunConfigCallback,
                save_config_kwargs={"overwrite": True},
                trainer_class=DMaxTrainer,
                seed_everything_default=0,
                subclass_mode_data=True,
                parser_class=Parser,
                parser_kwargs={command: {"description": DESCRIPTIONS[command]}},
                auto_configure_optimizers=False,
                args=[command, *expand_class_names(args, CLASS_OPTIONS)],
            )
    except UserError:
        raise
    except (MisconfigurationException, ValueError) as error:
        if not _raised_by_lightning(error):
            raise
        raise UserError(f"trainer: {one_line(error)}") from error  # found only in the run, such as a share of no batch
    except RuntimeError as error:
        if not is_unknown_monitor(error):
            raise
        raise UserError(f"trainer.callbacks: {one_line(error)}") from error
    return command_line.model


def _raised_by_lightning(error: BaseException) -> bool:
    """Return whether Lightning itself raised an exception, and not our code or a user's that it called."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")).startswith("lightning.")


class DMaxCLI(LightningCLI):
    """LightningCLI whose refusals are :class:`UserError`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._command: str = kwargs["args"][0]
        with ExitStack() as self._locks:
            super().__init__(*args, **kwargs)

    parsers: tuple[LightningArgumentParser, ...] = ()
    _checkpoint: dict[str, Any] | None = None  # without the tensors

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning asks the instance
        """Return the command alone, as parsers take time, with the arguments of its method that are no options."""
        skipped = LightningCLI.subcommands()[self._command]
        return {self._command: skipped | ({"return_predictions"} if self._command == "predict" else set())}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser called ``dmaxlit``, whatever started the process."""
        kwargs.setdefault("prog", "dmaxlit")
        parser = super().init_parser(**kwargs)
        self.parsers += (parser,)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Make the default noise strategy a class like any other, and give every run checkpoints and a guard."""
        parser.set_defaults({"model.noise": {"class_path": "dmaxlit.noise.OnPolicyNoise"}})
        parser.add_class_arguments(RunCheckpoint, "checkpoint")
        parser.add_class_arguments(FiniteGuard, "finite_guard")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args``, without Lightning's warning that they are not the process's, and read their checkpoint.

        Raises:
            UserError: If an argument is refused, or the checkpoint cannot be read.
        """
        self.config = parse_settings(parser, cast(list[str], args), self.parsers)
        settings = self.config[self.config.subcommand]
        for name in ("trainer.default_root_dir", "checkpoint.folder", "ckpt_path"):
            if path := settings.get(name):
                settings[name] = expanded(path)
                if self.config.subcommand == "fit" and name != "ckpt_path":
                    refuse_address(path, name, "; logs alone may go there, by the save_dir of a logger")
        if checkpoint := settings.get("ckpt_path"):
            settings["ckpt_path"] = resolve_checkpoint(checkpoint, self.config.subcommand, settings)
        if checkpoint := settings.get("ckpt_path"):
            self._checkpoint = read_checkpoint(checkpoint)
            if self.config.subcommand == "fit":
                check_resumable(checkpoint, self._checkpoint)
            weights = self._checkpoint["state_dict"]  # only their shapes are needed until Lightning reads them
            self._checkpoint["state_dict"] = {name: weight.to("meta") for name, weight in weights.items()}
            self._checkpoint.pop("optimizer_states", None)

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: Lightning would import the classes that it names."""

    def _dump_config(self) -> None:
        """Keep the settings as plain values for Lightning, which would check them again."""
        if not hasattr(self, "config_dump"):
            self.config_dump = plain_settings(self.parser, self.config, check=False)[str(self.subcommand)]

    def instantiate_classes(self) -> None:
        """Make model, data and trainer, and check the shapes of the weights in ``ckpt_path``.

        Raises:
            UserError: If one of them refuses a setting.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(one_line(error)) from error
        checkpoint = self.config_init[self.subcommand].get("ckpt_path")
        if checkpoint:
            refuse_sharded(checkpoint, self.trainer)
        if self._checkpoint is not None:
            refuse_other_weights("ckpt_path", self._checkpoint["state_dict"], self.model)

    def before_fit(self) -> None:
        """Resume from the run's last checkpoint, unless one is named.

        Raises:
            UserError: If it belongs to a run with other settings, is damaged, or is of a step beyond the run's last;
                if another process trains in the folder of the run, that of the logs cannot be written, or that of
                checkpoints has links to other folders, or checkpoints that the run would replace and does not go on
                from.
        """
        root = self.config_init["fit"].trainer.default_root_dir
        if root is not None and self.trainer.is_global_zero and not is_dry_run(self.trainer):
            self._locks.enter_context(exclusive_folder(Path(root), "trainer.default_root_dir"))
        for callback in self.trainer.checkpoint_callbacks:
            if folder := getattr(callback, "folder", None) or getattr(callback, "dirpath", None):
                refuse_links(folder)
        settings = self.config_dump
        cast(DMaxTrainer, self.trainer).hyperparameters = hyperparameters(settings)
        run_checkpoints = run_checkpoints_of(self.trainer)
        for callback in run_checkpoints:
            callback.settings = run_settings(settings, self.trainer, type(self.model))
            callback.stop_settings = stop_settings(settings)
        fit = self.config_init["fit"]
        if run_checkpoints and fit.get("ckpt_path") is None and run_checkpoints[0].folder is not None:
            path = find_checkpoint(self.trainer, run_checkpoints[0], self.model)
            fit["ckpt_path"] = None if path is None else str(path)
        elif self._checkpoint is not None:
            refuse_shorter(self.trainer, fit["ckpt_path"], self._checkpoint)
            for callback in run_checkpoints:
                if callback.folder and (refusal := callback.refusal(callback.files(self.trainer), fit["ckpt_path"])):
                    raise UserError(refusal)
        if not self._is_finished():
            self._skip_second_check(fit.get("ckpt_path"))
            self._hold_logs()

    def fit(self, **options: Any) -> None:
        """Train, unless the run is already finished."""
        if not self._is_finished():
            self.trainer.fit(**options)

    def _is_finished(self) -> bool:
        return any(getattr(callback, "finished", False) for callback in self.trainer.checkpoint_callbacks)

    def _skip_second_check(self, checkpoint: str | None) -> None:
        """Let the trainer read a checkpoint without comparing its checksums, which was done to choose it."""
        if checkpoint is not None and isinstance(self.trainer.strategy, FSDP2Strategy):
            self.trainer.strategy.set_verified(checkpoint)
        reader = self.trainer.strategy.checkpoint_io
        if checkpoint is not None and Path(checkpoint).is_file() and isinstance(reader, AtomicCheckpointIO):
            reader.set_verified(checkpoint)

    def _hold_logs(self) -> None:
        if self.trainer.is_global_zero and not is_dry_run(self.trainer):
            self._locks.enter_context(log_folders(self.trainer))

    def before_validate(self) -> None:
        """Decode even if the configuration names no callback for it.

        Raises:
            UserError: If there are no prompts to decode, or the folder of the logs cannot be written.
        """
        self._check_prompts("val" if self.subcommand == "validate" else "test")
        callbacks = cast(Any, self.trainer).callbacks
        if not any(isinstance(callback, SPDValidation) for callback in callbacks):
            callbacks.append(SPDValidation(curve=None))
        self._skip_second_check(self.config_init[self.subcommand].get("ckpt_path"))
        self._hold_logs()

    before_test = before_validate

    def before_predict(self) -> None:
        """Refuse data without prompts, and an output that is no file, before anything is written.

        Raises:
            UserError: If there are none to decode, or the output or the folder of the logs cannot be written.
        """
        self._check_prompts("test")
        if (output := self.config_init["predict"].get("output")) is not None:
            output_path(Path(output), "output")
        cast(DMaxTrainer, self.trainer).write_nothing_unasked()
        self._skip_second_check(self.config_init["predict"].get("ckpt_path"))
        self._hold_logs()

    def _check_prompts(self, split: Split) -> None:
        data = self.datamodule
        if not isinstance(data, SelfDistilledDataModule):
            return
        if data.task is None:
            raise UserError("data.task: expected a task, whose prompts are decoded, got none")
        check_at_least(1, **{f"data.num_{split}": data.num_examples[split]})
        if data.num_examples[split] is None and data.task.count(split) == 0:
            raise UserError(f"data.task: expected {split} prompts, found none")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, with the callbacks that every run has; :class:`AtomicCheckpointIO` writes the checkpoints.

        Raises:
            UserError: If it refuses a setting.
        """
        settings = self.config_init[self.subcommand]
        root = settings.trainer.default_root_dir
        if root is not None and Path(root).exists() and not Path(root).is_dir():
            raise UserError(f"trainer.default_root_dir: expected a folder, got the file {str(root)!r}")
        self.trainer_defaults["callbacks"] = default_callbacks(settings)
        try:
            trainer: Any = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            raise UserError(f"trainer: {one_line(error)}") from error
        direct_checkpoints(trainer, self.config[self.subcommand].trainer.default_root_dir)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        guard_strategy(trainer.strategy, reads_folders=isinstance(trainer.strategy, FSDP2Strategy))
        return cast(Trainer, trainer)
