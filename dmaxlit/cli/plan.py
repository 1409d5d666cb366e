"""``dmaxlit plan``."""

import math
from argparse import ArgumentError, ArgumentParser
from typing import Any

import torch
from jsonargparse import ArgumentParser as TypedParser
from lightning.pytorch.cli import OptimizerCallable
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dmaxlit.backbone.formats.hub import CONFIG_AND_TOKENIZER, fetch
from dmaxlit.backbone.formats.model_folder import (
    empty_model_from_folder,
    model_from_config,
    read_metadata,
    require_known_type,
    was_trained_with_masks,
)
from dmaxlit.backbone.formats.sdar import block_length_of
from dmaxlit.backbone.formats.weight_files import read_config
from dmaxlit.backbone.lora import LoraSettings, add_adapters
from dmaxlit.backbone.tokenizer import ensure_special_tokens, load_tokenizer, name_special_tokens
from dmaxlit.cli.training import DMaxCLI, run_cli
from dmaxlit.errors import UserError
from dmaxlit.noise import LogitsPrediction, NoiseStrategy, View, dialogue
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role, SpecialTokens
from dmaxlit.training.memory_plan import MemoryItem, MemoryScenario, plan

__all__ = ["format_plan", "run", "setup_of"]

_GIB = 2**30
_RESERVE = 1.0  # GiB: the CUDA context, and what the allocator cannot use
_HELP = """usage: dmaxlit plan --config FILE [--gpus N] [--gpu_memory GIB] [any option of fit]

Say what a configuration of `fit` needs of each GPU's memory, from shapes alone: no weights are read.

  --gpus N          Number of GPUs. Default: the trainer's devices and nodes, if they are numbers, else 1.
  --gpu_memory GIB  Memory of one; the last line then says whether the run fits, and the exit status is 1 if not.

The rest is fit's: --model.backbone.gradient_checkpointing true, --data.batch_size 4, ... Rows are taken to be as long
as --data.max_length or the model's context allows, and all of them response: the figures are what a run needs at most.
"""


class _PlanCLI(DMaxCLI):
    """Parses what ``fit`` takes, and makes nothing of it."""

    model = None

    def instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        self.model = self.config[subcommand]


def run(command: str, args: list[str]) -> None:
    """Carry out the command."""
    if not args or args[0] in ("-h", "--help"):
        print(_HELP, end="")
        return
    own = ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    own.add_argument("--gpus", type=int)
    own.add_argument("--gpu_memory", type=float)
    try:
        given, rest = own.parse_known_args(args)
    except ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}") from error
    for name, value in (("gpus", given.gpus), ("gpu_memory", given.gpu_memory)):
        if value is not None and value <= 0:
            raise UserError(f"{name}: expected a number above 0, got {value}")
    setup = setup_of(run_cli("fit", rest, cli=_PlanCLI), given.gpus)
    items = plan(setup)
    Console().print(_table(items, setup))
    lines, fits = format_plan(items, given.gpu_memory)
    print(lines)
    if not fits:
        raise SystemExit(1)


def setup_of(config: Any, gpus: int | None = None) -> MemoryScenario:
    """What is to be trained, from the settings of ``fit``; only the model's config and tokenizer are read.

    Args:
        config: The parsed settings.
        gpus: Number of GPUs; None for what the settings say.

    Raises:
        UserError: If the model's config or tokenizer cannot be read, or a setting is refused.
    """
    backbone, trainer, data = config.model.backbone.init_args, config.trainer, config.data.init_args
    source = None if backbone.pretrained is None else fetch(backbone.pretrained, CONFIG_AND_TOKENIZER)
    metadata = {} if source is None else read_metadata(source)
    stored = {} if source is None else read_config(source)
    if source is not None:
        require_known_type(stored, str(source))
    tokenizer = load_tokenizer(backbone.tokenizer or str(source))
    name_special_tokens(tokenizer, backbone.mask_token, backbone.eos_token, stored)
    if not was_trained_with_masks(stored):
        ensure_special_tokens(tokenizer)
    dtype: torch.dtype = getattr(torch, backbone.dtype)
    if source is not None:
        model = empty_model_from_folder(source, stored, backbone.attn_implementation, dtype)
    else:
        with torch.device("meta"):
            model = model_from_config(backbone.config or {}, tokenizer, backbone.attn_implementation, dtype)
    table: Any = model.get_input_embeddings()
    if len(tokenizer) > table.weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    extra: tuple[Tensor, ...] = ()
    if config.model.lora is not None:
        add_adapters(model, LoraSettings(**vars(config.model.lora)))
        extra = (torch.empty(model.config.hidden_size, dtype=dtype, device="meta", requires_grad=True),)
    block = int(backbone.block_length or metadata.get("block_length") or block_length_of(stored) or 32)
    limits = [backbone.max_length, metadata.get("max_length"), data.max_length, model.config.max_position_embeddings]
    length = min(int(limit) for limit in limits if limit) // block * block
    if gpus is None:
        gpus = trainer.devices * trainer.num_nodes if isinstance(trainer.devices, int) else 1
    strategy = getattr(trainer.strategy, "class_path", trainer.strategy)
    callbacks = trainer.callbacks or []
    decoding = [getattr(each.init_args, "batch_size", None) for each in callbacks if "init_args" in each]
    compute = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16-true": torch.bfloat16}
    return MemoryScenario(
        model=model,
        extra=extra,
        optimizer=_made(OptimizerCallable, config.model.optimizer),
        gpus=max(1, gpus),
        sharded=str(strategy).endswith(("FSDP2Strategy", "ModelParallelStrategy")),
        compute_dtype=compute.get(str(trainer.precision), dtype),
        rows=data.batch_size,
        length=length,
        views=_count_views(_made(NoiseStrategy, config.model.noise)),
        checkpointing=bool(backbone.gradient_checkpointing),
        decode_rows=max([rows for rows in decoding if rows] or [0]),
    )


def _made(kind: Any, spec: Any) -> Any:
    """What stands in the settings as a class with options."""
    parser = TypedParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    settings = spec.as_dict() if hasattr(spec, "as_dict") else spec
    made = parser.instantiate_classes(parser.parse_object({"it": settings})).it
    return made


def _count_views(noise: NoiseStrategy) -> int:
    """Views of a strategy, by holding the dialogue on eight tokens."""
    ids = torch.arange(8).unsqueeze(0)
    clean = CleanBatch(ids, torch.full_like(ids, Role.RESPONSE), 8, SpecialTokens(9, 8, 8, 10))

    def answer(view: View) -> LogitsPrediction:
        return LogitsPrediction(torch.zeros(int(view.supervised.sum()), 10), view.supervised)

    return sum(1 for _ in dialogue(noise.views(clean, RowGenerator(0, [0])), answer))


def format_plan(items: list[MemoryItem], gpu_memory: float | None) -> tuple[str, bool]:
    """The last lines of the plan, and whether it fits into ``gpu_memory`` GiB (True if that is not known)."""
    peaks = {
        when: sum(item.size for item in items if item.when in ("always", when)) for when in ("training", "decoding")
    }
    when, peak = max(peaks.items(), key=lambda each: each[1])
    need = peak / _GIB + _RESERVE
    told = f"peak: {_size(peak)} in {when} (training {_size(peaks['training'])}, decoding {_size(peaks['decoding'])})"
    if gpu_memory is None:
        return told, True
    largest = max((item for item in items if item.when in ("always", when)), key=lambda item: item.size)
    if need <= gpu_memory:
        return f"{told}\nfits: {need:.1f} of {gpu_memory:g} GiB, {_RESERVE:g} of it reserve", True
    return (
        f"{told}\ndoes not fit: {need:.1f} GiB needed, {_RESERVE:g} of it reserve, {gpu_memory:g} there; "
        f"the largest part is {largest.name}, {_size(largest.size)}",
        False,
    )


def _table(items: list[MemoryItem], setup: MemoryScenario) -> Table:
    how = "shared (FSDP2)" if setup.sharded and setup.gpus > 1 else "each with its own model"
    table = Table(title=f"{setup.model.config.model_type} on {setup.gpus} GPU{'s' * (setup.gpus > 1)}, {how}")
    for name, justify in (("each GPU holds", "left"), ("size", "right"), ("when", "left"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for item in items:
        table.add_row(item.name, _size(item.size), item.when, item.detail)
    return table


def _size(size: int) -> str:
    """Bytes for people."""
    if size < 1:
        return "0 B"
    power = min(int(math.log(size, 1024)), 4)
    return f"{size / 1024**power:.{0 if power == 0 else 2}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
