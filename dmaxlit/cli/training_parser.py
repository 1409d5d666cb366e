"""The parser of ``fit``, ``validate``, ``test`` and ``predict``: its help, and the checks of what it parsed."""

from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from dmaxlit.cli.class_names import PARSER_MODE
from dmaxlit.cli.config_files import ConfigFileParser, check_numbers
from dmaxlit.cli.flags import settings_of
from dmaxlit.cli.jsonargparse_internals import WholeLists, prefer_whole_numbers
from dmaxlit.cli.listed_classes import split_listed_options, with_listed_options
from dmaxlit.cli.messages import one_line
from dmaxlit.cli.option_flags import expand_option_flags
from dmaxlit.cli.trainer_settings import check_sections, check_trainer
from dmaxlit.errors import UserError

_DESCRIPTION = """{summary}

Settings come from --config files and from flags; later ones win, and a list replaces the list before. Several files may
be given, and a file may name another one to start from, relative to itself (config: quickstart.yaml). --print_config
shows the result.

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

#: The head of each command's help.
DESCRIPTIONS = {command: _DESCRIPTION.format(summary=summary) for command, summary in _SUMMARIES.items()}


class Parser(ConfigFileParser, WholeLists, LightningArgumentParser):
    """Lightning's parser, with registered names in YAML and errors that are raised instead of printed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(parser_mode=PARSER_MODE, exit_on_error=False, allow_abbrev=False)
        super().__init__(*args, **kwargs)

    def check_config(self, content: dict[str, Any]) -> None:
        """Refuse a section that is null."""
        check_sections(content)


def parse_settings(
    parser: LightningArgumentParser, args: list[str], parsers: Sequence[LightningArgumentParser]
) -> Namespace:
    """Return the settings that arguments give, in their ranges.

    Args:
        parser: Parser of the arguments.
        args: Name of the command, and its arguments.
        parsers: Parsers of the commands, whose settings are suggested for one that is unknown.

    Raises:
        UserError: If an argument is refused.
    """
    for one in parsers:
        prefer_whole_numbers(one)
    try:
        config = parser.parse_args(_expand_flags(parser, args))
    except ArgumentError as error:
        keys = [key.split(".") for parser in parsers for key, _ in parser.get_defaults().items()]
        known = {".".join(key[:depth]) for key in keys for depth in range(1, len(key) + 1)}
        raise UserError(one_line(error, known)) from error
    settings = config[config.subcommand]
    check_sections(settings)
    check_numbers(settings.as_dict())
    check_trainer(settings)
    if settings.get("weights_only") is False:
        raise UserError("weights_only: expected true, got false: a checkpoint must not run code when it is read")
    return config


def _expand_flags(parser: LightningArgumentParser, args: list[str]) -> list[str]:
    """Return a command and its arguments, with those replaced whose meaning depends on what the others set."""

    def settings(others: Sequence[str]) -> Any:
        return settings_of(parser, others)[args[0]]

    listed, others = split_listed_options(args)
    return with_listed_options(expand_option_flags(others, settings), listed, settings)
