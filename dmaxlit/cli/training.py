"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with our module and data."""

from argparse import ArgumentError
from pathlib import Path
from typing import Any, cast

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from dmaxlit.callbacks import FiniteGuard, RunCheckpoint, RunProgressBar, SPDValidation
from dmaxlit.checkpoints.atomic_io import AtomicCheckpointIO
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.cli.arguments import with_options
from dmaxlit.cli.bases import expand_bases
from dmaxlit.cli.messages import one_line
from dmaxlit.cli.names import CLASS_OPTIONS, PARSER_MODE, with_class_paths
from dmaxlit.cli.quiet import silence_known_warnings
from dmaxlit.cli.resume import find_checkpoint, refuse_parts, run_settings
from dmaxlit.cli.trainer import DMaxTrainer
from dmaxlit.data.datamodule import SelfDistilledDataModule
from dmaxlit.errors import UserError
from dmaxlit.module import DMaxModule

__all__ = ["DMaxCLI", "Parser", "run", "run_cli"]

_DESCRIPTION = """{summary}

Settings come from --config files and from flags; later ones win. Several files may be given, and a file may name
another one to start from, relative to itself (config: quickstart.yaml). --print_config shows what comes of it all.

A noise strategy is given by registered name (--model.noise on_policy), class name (OnPolicyNoise) or import path
(my_file.MyNoise, also from the current folder). Naming one starts from its own defaults; options follow, as
--model.noise.level 0.5, and --model.noise.help on_policy explains them. Optimiser (--model.optimizer AdamW
--model.optimizer.lr 1e-3), schedule (--model.lr_scheduler CosineAnnealingLR --model.lr_scheduler.T_max 400) and
callbacks are classes too. Options of a task: --data.task chain --data.task.difficulty hard.
"""

_SUMMARIES = {
    "fit": "Train a model on a corpus, or on a task's own worked responses.",
    "validate": "Decode the validation prompts and print the figures, of the configured model or of --ckpt_path.",
    "test": "Decode the test prompts and print the figures, of the configured model or of --ckpt_path.",
    "predict": "Decode the test prompts and write each answer to a file, one JSON object a line.",
}

_NOT_CHECKED = ("best", "last", "hpc", "registry", "s3", "gs", "http", "https")  # what Lightning looks up itself


def run(command: str, args: list[str]) -> None:
    """Carry out ``fit``, ``validate``, ``test`` or ``predict``."""
    run_cli(command, args)


def run_cli(
    command: str, args: list[str], module: type[DMaxModule] = DMaxModule, cli: type[LightningCLI] | None = None
) -> Any:
    """Carry out a command with a module class; returns what the command line has made of the model's settings."""
    silence_known_warnings()
    done = (cli or DMaxCLI)(
        module,
        SelfDistilledDataModule,
        save_config_kwargs={"overwrite": True},
        trainer_class=DMaxTrainer,
        seed_everything_default=0,
        subclass_mode_data=True,
        parser_class=Parser,
        parser_kwargs={name: {"description": _DESCRIPTION.format(summary=text)} for name, text in _SUMMARIES.items()},
        auto_configure_optimizers=False,
        args=[command, *with_class_paths(with_options(expand_bases(args)), CLASS_OPTIONS)],
    )
    return done.model


class Parser(LightningArgumentParser):
    """Lightning's parser, with registered names in YAML and errors that are raised instead of printed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(parser_mode=PARSER_MODE, exit_on_error=False)
        super().__init__(*args, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file; an error in it names the file."""
        try:
            return super().parse_path(path, *args, **kwargs)
        except (ArgumentError, UserError) as error:
            raise UserError(f"{path}: {one_line(error)}") from error


class DMaxCLI(LightningCLI):
    """LightningCLI whose refusals are :class:`UserError`."""

    parsers: tuple[LightningArgumentParser, ...] = ()
    _checkpoint_shapes: dict[str, Any] | None = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's methods that are commands, with the arguments that are no options."""
        commands = LightningCLI.subcommands()
        commands["predict"].add("return_predictions")
        return commands

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser called ``dmaxlit``, whatever started the process."""
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
        """Parse ``args``, which are the process's own with registered names replaced: no reason to warn of them.

        Raises:
            UserError: If there is something wrong with them, or the checkpoint they name cannot be read.
        """
        try:
            self.config = parser.parse_args(cast(list[str], args))
        except ArgumentError as error:
            keys = [key.split(".") for one in self.parsers for key, _ in one.get_defaults().items()]
            known = {".".join(key[:depth]) for key in keys for depth in range(1, len(key) + 1)}
            raise UserError(one_line(error, known)) from error
        checkpoint = self.config[self.config.subcommand].get("ckpt_path")
        if checkpoint and checkpoint.partition(":")[0] not in _NOT_CHECKED and not Path(checkpoint).is_dir():
            self._checkpoint_shapes = _shapes(read_checkpoint(checkpoint)["state_dict"])

    def instantiate_classes(self) -> None:
        """Make model, data and trainer.

        Raises:
            UserError: If one of them refuses a setting.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(one_line(error)) from error
        stored, own = self._checkpoint_shapes, _shapes(self.model.state_dict())
        named = self.config_init[self.subcommand].get("ckpt_path")
        if named:
            refuse_parts(named, self.trainer)
        wrong = [] if stored is None else [name for name in {**own, **stored} if own.get(name) != stored.get(name)]
        if wrong:
            raise UserError(f"ckpt_path: expected the weights of the configured model, got others, such as {wrong[0]}")

    def before_fit(self) -> None:
        """Go on from the run's last checkpoint, unless one is named.

        Raises:
            UserError: If it is of a run with other settings, or damaged.
        """
        kept = [each for each in self.trainer.checkpoint_callbacks if isinstance(each, RunCheckpoint)]
        for callback in kept:
            callback.settings = run_settings(self.parser, self.config, self.trainer)
        fit = self.config_init["fit"]
        if kept and fit.get("ckpt_path") is None and kept[0].folder is not None:
            found = find_checkpoint(self.trainer, kept[0])
            fit["ckpt_path"] = None if found is None else str(found)

    def fit(self, **options: Any) -> None:
        """Train, unless the run is finished already."""
        if not any(getattr(callback, "finished", False) for callback in self.trainer.checkpoint_callbacks):
            self.trainer.fit(**options)

    def before_validate(self) -> None:
        """Decode also where the configuration names no callback for it."""
        callbacks = cast(Any, self.trainer).callbacks
        if not any(isinstance(callback, SPDValidation) for callback in callbacks):
            callbacks.append(SPDValidation(curve=None))

    before_test = before_validate

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer; checkpoints go to ``checkpoints/`` in its ``default_root_dir``, if that was given.

        Every run has a :class:`RunCheckpoint`, whose ``last.ckpt`` no other callback writes, unless checkpoints are
        switched off, and a :class:`FiniteGuard`; checkpoints are written by :class:`AtomicCheckpointIO`.

        Lightning would put them into the numbered folder of the run's logs, where the next command must look for them;
        and with ``fast_dev_run`` it leaves ``last.ckpt`` behind, though it says that checkpoints are suppressed.

        Raises:
            UserError: If it refuses a setting.
        """
        given = self.config_init[self.subcommand]
        root = given.trainer.default_root_dir
        if root is not None and Path(root).exists() and not Path(root).is_dir():
            raise UserError(f"trainer.default_root_dir: expected a folder, got the file {str(root)!r}")
        own = [given[name] for name in ("checkpoint", "finite_guard")]
        if given.trainer.enable_checkpointing is False:
            own = own[1:]
        named = given.trainer.callbacks or []
        bars = [each for each in (named if isinstance(named, list) else [named]) if isinstance(each, ProgressBar)]
        if not bars and given.trainer.enable_progress_bar is not False:
            own.append(RunProgressBar())
        self.trainer_defaults["callbacks"] = own
        try:
            trainer: Any = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UserError(f"trainer: {one_line(error)}") from error
        root = self.config[self.subcommand].trainer.default_root_dir
        for callback in trainer.checkpoint_callbacks:
            if trainer.fast_dev_run:
                trainer.callbacks.remove(callback)
            elif isinstance(callback, ModelCheckpoint):
                if root is not None and callback.dirpath is None:
                    callback.dirpath = str(Path(root) / "checkpoints")
            elif root is not None and isinstance(callback, RunCheckpoint) and callback.folder is None:
                callback.folder = str(Path(root) / "checkpoints")
        kept = [each.folder for each in trainer.checkpoint_callbacks if isinstance(each, RunCheckpoint)]
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and kept == [callback.dirpath]:
                callback.save_last = False
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return cast(Trainer, trainer)


def _shapes(weights: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}
