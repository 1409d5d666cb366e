"""``dmaxlit plan``."""

import math
from argparse import ArgumentError, ArgumentParser
from typing import Any

import torch
from jsonargparse import ArgumentParser as TypedParser
from lightning.pytorch.cli import OptimizerCallable
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from dmaxlit.backbone.formats.hub import CONFIG_AND_TOKENIZER
from dmaxlit.backbone.frozen_features import check_layer, check_unsharded
from dmaxlit.backbone.lora import LoraSettings, add_adapters
from dmaxlit.backbone.mask_embedding import add_token_rows
from dmaxlit.backbone.source import BackboneSource
from dmaxlit.cli.model_flag import model_argument
from dmaxlit.cli.training import DMaxCLI, run_cli
from dmaxlit.errors import UserError, printable, renaming_argument
from dmaxlit.noise import FeatureRequest, LogitsPrediction, NoiseStrategy, View, dialogue
from dmaxlit.noise.soft_targets import SoftTargets, TeacherTargets
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role, SpecialTokens
from dmaxlit.training.memory_plan import plan
from dmaxlit.training.memory_scenario import MemoryItem, MemoryScenario

_GIB = 2**30
_RESERVE = 1.0  # GiB: the CUDA context, and what the allocator cannot use
_HELP = """usage: dmaxlit plan --config FILE [--gpus N] [--gpu_memory GIB] [any option of fit]

Estimate the memory that a configuration of `fit` needs on each GPU, from shapes alone: no weights are read.

  --gpus N          Number of GPUs. Default: the trainer's devices and nodes, if they are numbers, else 1.
  --gpu_memory GIB  Memory of each GPU; the last line then says whether the run fits; the exit status is 1 if not.

All other options are those of fit: --model.backbone.gradient_checkpointing true, --data.batch_size 4, ... Rows are
taken to be as long as --data.max_length or the model's context allows, and to be all response, so the figures are
upper bounds.
"""


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
    try:
        options, rest = parser.parse_known_args(args)
    except ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}") from error
    for name, value in (("gpus", options.gpus), ("gpu_memory", options.gpu_memory)):
        if value is not None and value <= 0:
            raise UserError(f"{name}: expected a number above 0, got {value}")
    settings = run_cli("fit", rest, cli=_PlanCLI)
    with renaming_argument(model_argument(rest), "pretrained"):
        scenario = scenario_of(settings, options.gpus)
    items = plan(scenario)
    Console().print(_table(items, scenario))
    lines, fits = format_plan(items, options.gpu_memory)
    print(printable(lines))
    if not fits:
        raise SystemExit(1)


def scenario_of(config: Any, gpus: int | None = None) -> MemoryScenario:
    """Return the training run that the settings of ``fit`` describe; only the model's config and tokenizer are read.

    Args:
        config: The parsed settings.
        gpus: Number of GPUs; None for the number in the settings.

    Raises:
        UserError: If the model's config or tokenizer cannot be read, a setting is refused, or an auxiliary model is
            trained.
    """
    if config.model.auxiliary is not None:
        raise UserError("auxiliary: expected none, for its memory is not estimated, got the settings of one")
    settings, trainer, data = vars(config.model.backbone.init_args), config.trainer, config.data.init_args
    checkpointing = bool(settings.pop("gradient_checkpointing"))
    for name in ("defer", "probe"):  # which change nothing that training holds
        del settings[name]
    source = BackboneSource.resolve(**settings, files=CONFIG_AND_TOKENIZER)
    model = source.empty_model()
    add_token_rows(model, len(source.tokenizer))
    extra: tuple[Tensor, ...] = ()
    if config.model.lora is not None:
        add_adapters(model, LoraSettings(**vars(config.model.lora)))
        extra = (torch.empty(model.config.hidden_size, dtype=source.dtype, device="meta", requires_grad=True),)
    context = source.context_length(model)
    length = min(context, data.max_length or context) // source.block_length * source.block_length
    if length < source.block_length:
        raise UserError(f"data.max_length: expected at least one block of {source.block_length}, got {data.max_length}")
    if gpus is None:
        gpus = trainer.devices * trainer.num_nodes if isinstance(trainer.devices, int) else 1
    strategy = getattr(trainer.strategy, "class_path", trainer.strategy)
    sharded = str(strategy).endswith(("FSDP2Strategy", "ModelParallelStrategy"))
    noise = _instantiate(NoiseStrategy, config.model.noise)
    if noise.feature_layer is not None:
        check_layer(model, noise.feature_layer)
        check_unsharded(sharded)
    compute = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16-true": torch.bfloat16}
    return MemoryScenario(
        model=model,
        extra=extra,
        optimizer=_instantiate(OptimizerCallable, config.model.optimizer),
        gpus=max(1, gpus),
        sharded=sharded,
        compute_dtype=compute.get(str(trainer.precision), source.dtype),
        rows=data.batch_size,
        length=length,
        checkpointing=checkpointing,
        decode_rows=_decode_rows(trainer.callbacks or []),
        **_passes_of(noise, source.block_length),
        copies_features=config.model.lora is None,
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


def _passes_of(noise: NoiseStrategy, block_length: int) -> dict[str, Any]:
    """Return how many passes of each kind a strategy takes, by evaluating its views on one block."""
    ids = torch.zeros(1, block_length, dtype=torch.long)
    clean = CleanBatch(ids, torch.full_like(ids, Role.RESPONSE), block_length, SpecialTokens(9, 8, 8, 10))
    requests: list[FeatureRequest] = []

    def answer(view: View) -> LogitsPrediction:
        return LogitsPrediction(torch.zeros(int(view.supervised.sum()), 10), view.supervised)

    def features(request: FeatureRequest) -> Tensor:
        requests.append(request)
        return torch.zeros(*request.ids.shape, 1)

    turns = dialogue(noise.views(clean, RowGenerator(0, [0])), answer, features)
    views = [view for view, _ in turns]
    trained = [view for view in views if view.requires_grad]
    compares = [any(isinstance(one, (SoftTargets, TeacherTargets)) for one in view.objectives) for view in trained]
    return {
        "views": len(trained),
        "divergence_views": sum(compares),
        "rollout_forwards": len(views) - len(trained),
        "feature_layer": noise.feature_layer,
        "feature_requests": len(requests),
    }


def format_plan(items: list[MemoryItem], gpu_memory: float | None) -> tuple[str, bool]:
    """Return the last lines of the plan, and whether it fits into ``gpu_memory`` GiB (True if that is not known)."""
    peaks = {
        when: sum(item.size for item in items if item.when in ("always", when)) for when in ("training", "decoding")
    }
    when, peak = max(peaks.items(), key=lambda entry: entry[1])
    need = peak / _GIB + _RESERVE
    training, decoding = _size(peaks["training"]), _size(peaks["decoding"])
    summary = f"peak: {_size(peak)} in {when} (training {training}, decoding {decoding})"
    if gpu_memory is None:
        return summary, True
    largest = max((item for item in items if item.when in ("always", when)), key=lambda item: item.size)
    if need <= gpu_memory:
        return f"{summary}\nfits: {need:.1f} of {gpu_memory:g} GiB, {_RESERVE:g} of it reserve", True
    return (
        f"{summary}\ndoes not fit: {need:.1f} GiB needed, {_RESERVE:g} of it reserve, {gpu_memory:g} available; "
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
        table.add_row(_shown(item.name), _size(item.size), item.when, _shown(item.detail))
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
