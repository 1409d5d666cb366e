"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with our module and data."""

from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from traceback import walk_tb
from typing import Any, cast

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from dmaxlit.callbacks import FiniteGuard, RunCheckpoint, RunProgressBar, SPDValidation
from dmaxlit.checkpoints.atomic_io import AtomicCheckpointIO
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.checkpoints.plain_data import guard_strategy
from dmaxlit.checkpoints.resumable import check_resumable
from dmaxlit.checkpoints.run_limits import refuse_shorter
from dmaxlit.checkpoints.tensorboard_internals import outlive_full_disks
from dmaxlit.cli.base_configs import expand_bases
from dmaxlit.cli.checkpoint_names import resolve_checkpoint
from dmaxlit.cli.class_names import CLASS_OPTIONS, PARSER_MODE, expand_class_names
from dmaxlit.cli.config_files import ConfigFileParser, check_numbers
from dmaxlit.cli.flags import settings_of
from dmaxlit.cli.known_warnings import silence_known_warnings
from dmaxlit.cli.listed_classes import split_listed_options, with_listed_options
from dmaxlit.cli.messages import one_line
from dmaxlit.cli.model_class import split_model_class
from dmaxlit.cli.model_flag import expand_model_flag
from dmaxlit.cli.option_flags import expand_option_flags
from dmaxlit.cli.option_help import show_option_help
from dmaxlit.cli.resume import find_checkpoint, refuse_other_weights, refuse_sharded, run_settings, stop_settings
from dmaxlit.cli.trainer import DMaxTrainer
from dmaxlit.cli.trainer_settings import check_sections, check_trainer
from dmaxlit.data.datamodule import SelfDistilledDataModule
from dmaxlit.errors import UserError, check_at_least
from dmaxlit.evaluation.validation_batches import is_dry_run
from dmaxlit.locks import exclusive_folder
from dmaxlit.module import DMaxModule
from dmaxlit.tasks import Split
from dmaxlit.training.fsdp import FSDP2Strategy

_DESCRIPTION = """{summary}

Settings come from --config files and from flags; later ones win. Several files may be given, and a file may name
another one to start from, relative to itself (config: quickstart.yaml). --print_config shows the result.

A noise strategy is given by registered name (--model.noise on_policy), class name (OnPolicyNoise) or import path
(my_file.MyNoise, also from the current folder). Naming one starts from its own defaults; options follow, as in
--model.noise.level 0.5, and --model.noise.help on_policy explains them. Optimiser (--model.optimizer AdamW
--model.optimizer.lr 1e-3), schedule (--model.lr_scheduler CosineAnnealingLR --model.lr_scheduler.T_max 400) and
callbacks are classes too. --trainer.callbacks+ EarlyStopping adds a callback to the list. An option of one in the list
goes by its class: --trainer.callbacks.ComparisonReport.num_examples 64; --trainer.callbacks.ComparisonReport.help
explains its options. Loggers and plugins likewise. Options of a task: --data.task chain --data.task.difficulty hard.
--model my_file.MyModule uses a subclass of DMaxModule, whose options are --model.NAME.

A configuration file is code: it names classes, which are imported and called. Read one from elsewhere before use, or
run it with --safe: it may then name only registered strategies and tasks, and classes of dmaxlit, Lightning and
torch.optim.
"""

_SUMMARIES = {
    "fit": "Train a model on a corpus, or on a task's own worked responses.",
    "validate": "Decode the validation prompts and print the figures, of the configured model or of --ckpt_path.",
    "test": "Decode the test prompts and print the figures, of the configured model or of --ckpt_path.",
    "predict": "Decode the test prompts and write each answer to a file, one JSON object a line.",
}


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
    show_option_help(args, ["--data.task", *(["--decoder"] if command == "predict" else [])])
    outlive_full_disks()
    args = expand_model_flag(expand_bases(args))
    try:
        command_line = (cli or DMaxCLI)(
            module,
            SelfDistilledDataModule,
            save_config_kwargs={"overwrite": True},
            trainer_class=DMaxTrainer,
            seed_everything_default=0,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={
                name: {"description": _DESCRIPTION.format(summary=text)} for name, text in _SUMMARIES.items()
            },
            auto_configure_optimizers=False,
            args=[command, *expand_class_names(args, CLASS_OPTIONS)],
        )
    except UserError:
        raise
    except (MisconfigurationException, ValueError) as error:
        if not _raised_by_lightning(error):
            raise
        raise UserError(f"trainer: {one_line(error)}") from error  # found only in the run, such as a share of no batch
    return command_line.model


def _raised_by_lightning(error: BaseException) -> bool:
    """Return whether Lightning itself raised an exception, and not our code or a user's that it called."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")).startswith("lightning.")


class Parser(ConfigFileParser, LightningArgumentParser):
    """Lightning's parser, with registered names in YAML and errors that are raised instead of printed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(parser_mode=PARSER_MODE, exit_on_error=False)
        super().__init__(*args, **kwargs)

    def check_config(self, content: dict[str, Any]) -> None:
        """Refuse a section that is null."""
        check_sections(content)


class DMaxCLI(LightningCLI):
    """LightningCLI whose refusals are :class:`UserError`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with ExitStack() as self._locks:
            super().__init__(*args, **kwargs)

    parsers: tuple[LightningArgumentParser, ...] = ()
    _checkpoint: dict[str, Any] | None = None  # without the tensors

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the trainer's methods that are commands, with the arguments that are no options."""
        commands = LightningCLI.subcommands()
        commands["predict"].add("return_predictions")
        return commands

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
        """Parse ``args``, without Lightning's warning that they differ from the process's: only names are replaced.

        Raises:
            UserError: If an argument is refused, or the checkpoint they name cannot be read.
        """
        try:
            self.config = parser.parse_args(_expand_flags(parser, cast(list[str], args)))
        except ArgumentError as error:
            keys = [key.split(".") for parser in self.parsers for key, _ in parser.get_defaults().items()]
            known = {".".join(key[:depth]) for key in keys for depth in range(1, len(key) + 1)}
            raise UserError(one_line(error, known)) from error
        settings = self.config[self.config.subcommand]
        check_sections(settings)
        check_numbers(settings.as_dict())
        check_trainer(settings)
        if settings.get("weights_only") is False:
            raise UserError("weights_only: expected true, got false: a checkpoint must not run code when it is read")
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
                if another process trains in the folder of the run.
        """
        root = self.config_init["fit"].trainer.default_root_dir
        if root is not None and self.trainer.is_global_zero and not is_dry_run(self.trainer):
            self._locks.enter_context(exclusive_folder(Path(root), "trainer.default_root_dir"))
        run_checkpoints = _run_checkpoints(self.trainer)
        for callback in run_checkpoints:
            callback.settings = run_settings(self.parser, self.config, self.trainer, type(self.model))
            callback.stop_settings = stop_settings(self.parser, self.config)
        fit = self.config_init["fit"]
        if run_checkpoints and fit.get("ckpt_path") is None and run_checkpoints[0].folder is not None:
            path = find_checkpoint(self.trainer, run_checkpoints[0], self.model)
            fit["ckpt_path"] = None if path is None else str(path)
        elif self._checkpoint is not None:
            refuse_shorter(self.trainer, fit["ckpt_path"], self._checkpoint)

    def fit(self, **options: Any) -> None:
        """Train, unless the run is already finished."""
        if not any(getattr(callback, "finished", False) for callback in self.trainer.checkpoint_callbacks):
            self.trainer.fit(**options)

    def before_validate(self) -> None:
        """Decode even if the configuration names no callback for it.

        Raises:
            UserError: If there are no prompts to decode.
        """
        self._check_prompts("val" if self.subcommand == "validate" else "test")
        callbacks = cast(Any, self.trainer).callbacks
        if not any(isinstance(callback, SPDValidation) for callback in callbacks):
            callbacks.append(SPDValidation(curve=None))

    before_test = before_validate

    def before_predict(self) -> None:
        """Refuse data without prompts.

        Raises:
            UserError: If there are none to decode.
        """
        self._check_prompts("test")

    def _check_prompts(self, split: Split) -> None:
        data = self.datamodule
        if not isinstance(data, SelfDistilledDataModule):
            return
        if data.task is None:
            raise UserError("data.task: expected a task, whose prompts are decoded, got none")
        check_at_least(1, **{f"data.num_{split}": data.num_examples[split]})

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, with the callbacks that every run has.

        These are a :class:`RunCheckpoint` and a progress bar, unless they are switched off, as by ``barebones``, and a
        :class:`FiniteGuard`. :class:`AtomicCheckpointIO` writes the checkpoints.

        Raises:
            UserError: If it refuses a setting.
        """
        settings = self.config_init[self.subcommand]
        root = settings.trainer.default_root_dir
        if root is not None and Path(root).exists() and not Path(root).is_dir():
            raise UserError(f"trainer.default_root_dir: expected a folder, got the file {str(root)!r}")
        defaults = [settings[name] for name in ("checkpoint", "finite_guard")]
        is_bare = bool(settings.trainer.barebones)
        if settings.trainer.enable_checkpointing is False or is_bare:
            defaults = defaults[1:]
        callbacks = settings.trainer.callbacks or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if not has_bar and settings.trainer.enable_progress_bar is not False and not is_bare:
            defaults.append(RunProgressBar())
        self.trainer_defaults["callbacks"] = defaults
        try:
            trainer: Any = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UserError(f"trainer: {one_line(error)}") from error
        _direct_checkpoints(trainer, self.config[self.subcommand].trainer.default_root_dir)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        guard_strategy(trainer.strategy, reads_folders=isinstance(trainer.strategy, FSDP2Strategy))
        return cast(Trainer, trainer)


def _expand_flags(parser: LightningArgumentParser, args: list[str]) -> list[str]:
    """Return a command and its arguments, with those replaced whose meaning depends on what the others set."""

    def settings(others: Sequence[str]) -> Any:
        return settings_of(parser, others)[args[0]]

    listed, others = split_listed_options(args)
    return with_listed_options(expand_option_flags(others, settings), listed, settings)


def _run_checkpoints(trainer: Trainer) -> list[RunCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]


def _direct_checkpoints(trainer: Any, root: str | Path | None) -> None:
    """Direct checkpoints to ``checkpoints/`` in ``default_root_dir``, if that is set; none are written in a dry run.

    Lightning would write them to the numbered folder of the run's logs, where the next command could not find them; and
    with ``fast_dev_run`` it leaves ``last.ckpt`` behind, though it says that checkpoints are suppressed.
    """
    for callback in trainer.checkpoint_callbacks:
        if trainer.fast_dev_run:
            trainer.callbacks.remove(callback)
        elif root is None:
            continue
        elif isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(Path(root) / "checkpoints")
        elif isinstance(callback, RunCheckpoint) and callback.folder is None:
            callback.folder = str(Path(root) / "checkpoints")
    # Only the RunCheckpoint writes last.ckpt in its folder.
    folders = [callback.folder for callback in _run_checkpoints(trainer)]
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and folders == [callback.dirpath]:
            callback.save_last = False
