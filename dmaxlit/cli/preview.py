"""``dmaxlit preview``."""

import json
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pydoc import locate
from typing import cast

import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from rich.console import Console

from dmaxlit.callbacks import BlockWarmup
from dmaxlit.cli.model_class import split_model_class
from dmaxlit.cli.training import DMaxCLI, run_cli
from dmaxlit.cli.training_parser import parse_settings
from dmaxlit.cli.view_lines import legend, print_text, print_view
from dmaxlit.errors import UserError, check_at_least, printable
from dmaxlit.loading import usable_device
from dmaxlit.module import DMaxModule
from dmaxlit.noise import View
from dmaxlit.tokens import CleanBatch

_HELP = """usage: dmaxlit preview [TEXTS ...] [--model MODEL] [--noise NAME] [--config FILE] [any option of fit]

Show what a noise strategy makes of texts: every view of the first rows, token by token. A strategy that uses the
model's predictions gets them: the views are those that `fit` would train on.

  TEXTS             The corpus: .jsonl, .json, .parquet or .txt files, folders, patterns or hub ids, as --data.corpus.
                    Default: that of the configuration.
  --model MODEL     Folder, hub id or builtin:NAME.
  --noise NAME      Registered name or import path of the strategy, as --model.noise. Its options are flags too:
                    --noise.level 0.5; --noise.help NAME explains them. Default: that of the configuration, or
                    on_policy.
  --num_rows N      Rows to show. Default: 2.
  --seed N          Seed of the corruption, as --seed_everything. Default: that of the configuration, or 0.
  --step N          Optimiser step, for levels, and blocks of BlockWarmup, that change in the course of training.
                    Default: 0.
  --device DEVICE   cpu, cuda, ...; auto takes an accelerator if there is one. Default: auto.

All other options are those of fit: --data.columns.text body, --data.max_length 256, ... Nothing is written.
"""
_WITHOUT_VALUE = ("--print_config", "--help")


class _PreviewCLI(DMaxCLI):
    """Makes the model and the data of ``fit``, but no trainer."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args``.

        Raises:
            UserError: If an argument is refused, or is a checkpoint, whose weights only a trainer reads.
        """
        self.config = parse_settings(parser, cast(list[str], args), self.parsers)
        if self.config[self.config.subcommand].get("ckpt_path"):
            raise UserError("ckpt_path: expected none for a preview; `dmaxlit export` makes a folder for --model of it")

    def instantiate_trainer(self, **kwargs: object) -> None:  # type: ignore[override]
        """Make none."""

    def _run_subcommand(self, subcommand: str) -> None:
        callbacks = self.config[subcommand].trainer.callbacks or []
        if not isinstance(callbacks, list):  # one alone
            callbacks = [callbacks]
        warmups = [BlockWarmup(**each.init_args) for each in callbacks if locate(each.class_path) is BlockWarmup]
        self.model = self.model, self.datamodule, warmups


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    if not args or args[0] in ("-h", "--help"):
        print(_HELP, end="")
        return
    parser = ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--num_rows", type=int, default=2)
    parser.add_argument("--step", type=int, default=0)
    parser.add_argument("--device", default="auto")
    try:
        options, rest = parser.parse_known_args(list(_joined(args)))
    except ArgumentError as error:
        raise UserError(f"{str(error.argument_name).lstrip('-')}: {error.message}") from error
    check_at_least(1, num_rows=options.num_rows)
    check_at_least(0, step=options.step)
    cls, fit_args = split_model_class(list(_fit_args(rest)))
    if any(arg.startswith("--") and arg.partition("=")[0].endswith(".help") for arg in rest):
        run_cli("fit", fit_args, cls)  # prints it, and needs no texts
        return
    if not any(not arg.startswith("-") or arg.startswith(("--config", "--data")) for arg in rest):
        raise UserError("texts: expected a corpus, or --config or --data.task to name one, got none")
    device = usable_device(options.device)
    module, data, warmups = run_cli("fit", [*fit_args, "--model.backbone.defer=false"], cls, cli=_PreviewCLI)
    module.to(device).eval()
    data.bind(module.tokenizer, module.backbone.block_length, module.backbone.max_length)
    data.setup("fit")
    batch = {name: value.to(device) for name, value in data.first_rows(options.num_rows).items()}
    for warmup in warmups:
        warmup.check(module.backbone.block_length)
        module.training_block_length = warmup.at(options.step)
    clean, views = _views(module, batch, options.step)
    _print(module, clean, views, data.places(batch["index"].tolist()))


def _joined(args: Sequence[str]) -> Iterator[str]:
    """Yield the arguments with ``--flag=value`` for ``--flag value``, so that what is left over are the texts."""
    rest = iter(args)
    for arg in rest:
        has_value = arg.startswith("--") and "=" not in arg and arg not in _WITHOUT_VALUE
        value = next(rest, None) if has_value else None
        yield arg if value is None else f"{arg}={value}"


def _fit_args(args: Sequence[str]) -> Iterator[str]:
    """Yield the arguments of ``fit`` for those of a preview."""
    texts = [arg for arg in args if not arg.startswith("-")]
    for arg in args:
        flag, equals, value = arg.partition("=")
        if arg.startswith("-"):
            name = flag.replace("--noise", "--model.noise", 1) if flag.split(".")[0] == "--noise" else flag
            yield f"{'--seed_everything' if name == '--seed' else name}{equals}{value}"
    if texts:
        yield from (f"--data.corpus={json.dumps(texts)}", "--data.distill=null")  # YAML, which JSON is


def _views(module: DMaxModule, batch: dict[str, torch.Tensor], step: int) -> tuple[CleanBatch, list[View]]:
    """Return a batch as the strategy receives it at a step, and its views."""
    clean = replace(module.clean_batch(batch), step=step)
    generator = module.row_generator(batch, clean)
    views: list[View] = []
    module.view_watchers.append(lambda view, prediction, loss, clean: views.append(view))
    with torch.no_grad():
        module.view_losses(clean, generator)
    return clean, views


def _print(module: DMaxModule, clean: CleanBatch, views: Sequence[View], places: Sequence[str]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(legend())
    for row, place in enumerate(places):
        console.print(f"\n{printable(place)}", style="bold")
        print_text(console, module.tokenizer, clean, row)
        for view in views:
            print_view(console, module.tokenizer, clean, view, row)
    console.print(printable(f"\n{module.noise!r}, seed {module.seed}, step {clean.step}"), soft_wrap=True)
