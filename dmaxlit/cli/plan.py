"""``dmaxlit plan``."""

import math
from argparse import ArgumentError, ArgumentParser, Namespace
from functools import partial
from pydoc import locate
from typing import Any

import torch
from jsonargparse import ArgumentParser as TypedParser
from lightning.pytorch.cli import OptimizerCallable
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from dmaxlit.backbone.frozen_features import check_layer, check_unsharded
from dmaxlit.backbone.lora import LoraSettings, add_adapters
from dmaxlit.backbone.mask_embedding import add_token_rows
from dmaxlit.backbone.source import BackboneSource
from dmaxlit.cli.model_class import split_model_class
from dmaxlit.cli.model_flag import model_argument
from dmaxlit.cli.plan_network import GPUS, print_network_table
from dmaxlit.cli.plan_passes import passes_of
from dmaxlit.cli.plan_table import EXPERTS, RESERVE, gib_needed, has_experts, print_table
from dmaxlit.cli.training import DMaxCLI, run_cli
from dmaxlit.data.token_batches import check_batches
from dmaxlit.errors import UserError, check_at_least, printable, renaming_argument
from dmaxlit.noise import NoiseStrategy
from dmaxlit.tokens import num_ids
from dmaxlit.training.communication_plan import Speeds
from dmaxlit.training.memory_plan import peaks, plan
from dmaxlit.training.memory_scenario import MemoryItem, MemoryScenario
from dmaxlit.training.objective import objective_of

_HELP = """usage: dmaxlit plan --config FILE [--gpus N] [--gpu_memory GIB] [--table] [--network_gbits G] [fit's options]

Estimate the memory that a configuration of `fit` needs on each GPU, from shapes alone: no weights are read.

  --gpus N          Number of GPUs. Default: the trainer's devices and nodes, if they are numbers, else 1.
  --gpu_memory GIB  Memory of each GPU; the last line then says whether the run fits; the exit status is 1 if not.
  --table           Instead, what 1, 2, 4, 8 and 16 GPUs need, and the smallest of 24, 40, 80 and 141 GB that is enough:
                    all weights or LoRA, with and without activation checkpointing.
  --network_gbits G Instead, what each of 1 to 64 GPUs (or of --gpus) receives from the others, and how long that and
                    computing take: G is the network of a node in Gbit/s, all of its cards together.
  --link_gbytes G   GB/s that a GPU receives within a node (for NVLink 4 what collectives reach). Default: 350.
  --gpus_per_node N Default: 8.
  --tflops T        What matrix products reach on a GPU, in TFLOP/s (an H100's 40% in bfloat16). Default: 400.

All other options are those of fit: --model.backbone.gradient_checkpointing true, --data.batch_size 4, ... Rows are
taken to be as long as --data.max_length or the model's context allows, and to be all response, so the figures are
upper bounds.
"""


_COMPUTE = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}  # precisions, mixed or true
_TRUE = ("bf16-true", "16-true", "64-true", "64")  # those for which the trainer casts all weights
# What GPUs are taken to reach.
_SPEEDS = {"link_gbytes": 350.0, "gpus_per_node": 8, "tflops": 400.0}


class _PlanCLI(DMaxCLI):
    """Parses the arguments of ``fit`` without instantiating anything."""

    model = None

    def instantiate_classes(self) -> None:
        """Instantiate nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        self.model = self.config[subcommand]


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    if not args or args[0] in ("-h", "--help"):
        print(_HELP, end="")
        return
    parser = ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--gpu_memory", type=float)
    parser.add_argument("--table", action="store_true")
    for name in ("network_gbits", *_SPEEDS):
        parser.add_argument(f"--{name}", type=int if name == "gpus_per_node" else float)
    try:
        options, rest = parser.parse_known_args(args)
    except ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}") from error
    _check(options)
    module, rest = split_model_class(rest)
    settings = run_cli("fit", rest, module, cli=_PlanCLI)
    with renaming_argument(model_argument(rest), "pretrained"):
        source = source_of(settings)
        if options.table:
            print_table(partial(scenario_of, settings, source))
            return
        scenario = scenario_of(settings, source, options.gpus)
    if options.network_gbits is not None:
        print_network_table(scenario, _speeds(options), GPUS if options.gpus is None else [options.gpus])
        return
    items = plan(scenario)
    Console().print(_table(items, scenario))
    if scenario.gpus > 1 and has_experts(scenario):
        print(EXPERTS)
    lines, fits = format_plan(items, options.gpu_memory)
    print(printable(lines))
    if not fits:
        raise SystemExit(1)


def _check(options: Namespace) -> None:
    """Refuse numbers that are not above 0, and those that have no part in what is printed."""
    for name in ("gpus", "gpu_memory", "network_gbits", *_SPEEDS):
        if (value := getattr(options, name)) is None:
            continue
        if not 0 < value < math.inf:
            raise UserError(f"{name}: expected a number above 0, got {value}")
        if options.table and name in ("gpus", "gpu_memory"):
            raise UserError(f"{name}: expected none with --table, which has several of them, got {value}")
        if options.table:
            raise UserError(f"{name}: expected none with --table, got {value}")
        if name in _SPEEDS and options.network_gbits is None:
            raise UserError(f"{name}: expected --network_gbits with it, got {value} alone")
    if options.gpu_memory is not None and options.network_gbits is not None:
        raise UserError(f"gpu_memory: expected none with --network_gbits, got {options.gpu_memory}")


def _speeds(options: Namespace) -> Speeds:
    chosen = {
        name: default if getattr(options, name) is None else getattr(options, name) for name, default in _SPEEDS.items()
    }
    return Speeds(
        flops=chosen["tflops"] * 1e12,
        link=chosen["link_gbytes"] * 1e9,
        network=options.network_gbits * 1e9 / 8,
        gpus_per_node=int(chosen["gpus_per_node"]),
    )


def source_of(config: Any) -> BackboneSource:
    """Return the model's config and tokenizer, which are all that is read of it.

    Args:
        config: The parsed settings.

    Raises:
        UserError: If they cannot be read.
    """
    settings = dict(vars(config.model.backbone.init_args))
    for name in ("gradient_checkpointing", "defer", "probe"):  # which say nothing about the model
        del settings[name]
    return BackboneSource.resolve(**settings, weights=False)


def scenario_of(
    config: Any,
    source: BackboneSource,
    gpus: int | None = None,
    lora: bool | None = None,
    checkpointing: bool | None = None,
) -> MemoryScenario:
    """Return the training run that the settings of ``fit`` describe.

    Args:
        config: The parsed settings.
        source: The model's config and tokenizer.
        gpus: Number of GPUs; None for the number in the settings.
        lora: Whether adapters are trained, with the settings' options if they have any; None for what the settings say.
        checkpointing: Whether activations are recomputed; None for what the settings say.

    Raises:
        UserError: If a setting is refused, or an auxiliary model is trained.
    """
    if config.model.auxiliary is not None:
        raise UserError("auxiliary: expected none, for its memory is not estimated, got the settings of one")
    trainer, data = config.trainer, config.data.init_args
    if "batch_size" not in data:
        raise UserError(
            "data: expected a data module with the option batch_size, which the estimate needs, got "
            f"{config.data.class_path} without"
        )
    check_at_least(1, batch_size=data.batch_size)
    model = source.empty_model()
    add_token_rows(model, num_ids(source.tokenizer))
    extra: tuple[Tensor, ...] = ()
    lora = config.model.lora is not None if lora is None else lora
    if lora:
        add_adapters(model, LoraSettings(**vars(config.model.lora or LoraSettings())))
        extra = (torch.empty(model.config.hidden_size, dtype=torch.float32, device="meta", requires_grad=True),)
    precision = str(trainer.precision)
    compute_dtype = _COMPUTE.get(precision.partition("-")[0], source.dtype)
    if precision in _TRUE:
        model.to(compute_dtype)  # type: ignore[arg-type]  # transformers overloads it
        extra = tuple(tensor.to(compute_dtype) for tensor in extra)
    context = source.context_length(model)
    longest = getattr(data, "max_length", None)
    length = (context if longest is None else min(context, longest)) // source.block_length * source.block_length
    if length < source.block_length:
        raise UserError(f"data.max_length: expected at least one block of {source.block_length}, got {longest}")
    rows, most = data.batch_size, getattr(data, "max_tokens", None)
    with renaming_argument("data.max_tokens", "max_tokens"):
        check_batches(most, source.block_length, keeps_order=False)
    if most is not None:
        length = min(length, most // source.block_length * source.block_length)
        rows = min(rows, most // length)
    if gpus is None:
        gpus = trainer.devices * trainer.num_nodes if isinstance(trainer.devices, int) else 1
    strategy = getattr(trainer.strategy, "class_path", trainer.strategy)
    sharded = str(strategy).endswith(("FSDP2Strategy", "ModelParallelStrategy"))
    noise = _instantiate(NoiseStrategy, config.model.noise)
    callbacks = trainer.callbacks or []
    if not isinstance(callbacks, list):  # one alone
        callbacks = [callbacks]
    objective = objective_of(locate(callback.class_path) for callback in callbacks)
    passes = passes_of(objective, noise, source.block_length)
    if (layer := passes.get("feature_layer")) is not None:
        check_layer(model, layer)
        check_unsharded(sharded)
    if checkpointing is None:
        checkpointing = bool(config.model.backbone.init_args.gradient_checkpointing)
    return MemoryScenario(
        model=model,
        extra=extra,
        optimizer=_instantiate(OptimizerCallable, config.model.optimizer),
        gpus=max(1, gpus),
        sharded=sharded,
        compute_dtype=compute_dtype,
        casts_weights=precision in ("bf16", "16") or precision.endswith("-mixed"),
        rows=rows,
        length=length,
        checkpointing=checkpointing,
        decode_rows=_decode_rows(callbacks),
        **passes,
        copies_features=not lora,
        offloaded=config.model.frozen_copy == "offloaded",
    )


def _decode_rows(callbacks: list[Any]) -> int:
    """Return the largest number of prompts that a callback decodes together, 0 if none decodes."""
    sizes = [getattr(callback.init_args, "batch_size", None) for callback in callbacks if "init_args" in callback]
    return max([int(size) for size in sizes if size] or [0])


def _instantiate(kind: Any, spec: Any) -> Any:
    """Return an instance of the class that the settings name, with its options."""
    parser = TypedParser(exit_on_error=False)
    parser.add_argument("--instance", type=kind)
    settings = spec.as_dict() if hasattr(spec, "as_dict") else spec
    return parser.instantiate_classes(parser.parse_object({"instance": settings})).instance


def format_plan(items: list[MemoryItem], gpu_memory: float | None) -> tuple[str, bool]:
    """Return the last lines of the plan, and whether it fits into ``gpu_memory`` GiB (True if that is not known)."""
    of_phases = peaks(items)
    phase, peak = max(of_phases.items(), key=lambda entry: entry[1])
    need = gib_needed(items)
    by_phase = ", ".join(f"{name} {_size(size)}" for name, size in of_phases.items())
    summary = f"peak: {_size(peak)} in {phase} ({by_phase})"
    if gpu_memory is None:
        return summary, True
    largest = max((item for item in items if item.is_held(phase)), key=lambda item: item.size)
    if need <= gpu_memory:
        return f"{summary}\nfits: {need:.1f} of {gpu_memory:g} GiB, {RESERVE:g} of it reserve", True
    return (
        f"{summary}\ndoes not fit: {need:.1f} GiB needed, {RESERVE:g} of it reserve, {gpu_memory:g} available; "
        f"the largest part is {largest.name}, {_size(largest.size)}",
        False,
    )


def _table(items: list[MemoryItem], scenario: MemoryScenario) -> Table:
    layout = "shared (FSDP2)" if scenario.sharded and scenario.gpus > 1 else "each with its own model"
    table = Table(
        title=_shown(f"{scenario.model.config.model_type} on {scenario.gpus} GPU{'s' * (scenario.gpus > 1)}, {layout}")
    )
    for name, justify in (("each GPU holds", "left"), ("size", "right"), ("when", "left"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for item in items:
        table.add_row(_shown(item.name), _size(item.size), ", ".join(item.when), _shown(item.detail))
    return table


def _shown(text: str) -> Text:
    """Return a text that is neither markup nor obeyed by the terminal."""
    return Text(printable(text))


def _size(size: int) -> str:
    """Format a number of bytes."""
    if size < 1:
        return "0 B"
    power = min(int(math.log(size, 1024)), 4)
    return f"{size / 1024**power:.{0 if power == 0 else 2}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
