"""What fits on which GPUs: the table of ``dmaxlit plan --table``."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.util import find_spec

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from dmaxlit.backbone.hidden_matrices import mark_hidden_matrices, routers
from dmaxlit.errors import printable
from dmaxlit.training.memory_plan import peaks, plans
from dmaxlit.training.memory_scenario import MemoryItem, MemoryScenario
from dmaxlit.training.muon import MuonAdamW

RESERVE = 1.0
"""GiB that a run cannot use: the CUDA context, and what the allocator leaves between tensors."""
EXPERTS = (
    "experts: shared like all weights, and those of a layer gathered to compute it; expert parallelism is not offered"
)
_GPUS = (1, 2, 4, 8, 16)
# Sold as GB: GiB that CUDA reports as free on an idle one, rounded down.
_CARDS = {24: 23.5, 40: 39.0, 80: 79.0, 141: 139.0}
_COLUMNS = {  # LoRA, activation checkpointing
    "all weights": (False, False),
    "all weights, checkpointing": (False, True),
    "LoRA": (True, False),
    "LoRA, checkpointing": (True, True),
}


def gib_needed(items: Iterable[MemoryItem]) -> float:
    """Return the GiB that a GPU needs for a plan, the reserve included."""
    return max(peaks(items).values()) / 2**30 + RESERVE


def has_experts(scenario: MemoryScenario) -> bool:
    """Return whether the model is a mixture of experts."""
    return next(routers(scenario.model), None) is not None


def print_table(scenario_of: Callable[..., MemoryScenario]) -> None:
    """Print what each number of GPUs needs, and the smallest GPU that has it.

    Args:
        scenario_of: Returns the training run for ``lora`` and ``checkpointing``.
    """
    columns, title = {}, ""
    for name, (lora, checkpointing) in _COLUMNS.items():
        if lora and find_spec("peft") is None:
            continue
        scenario = scenario_of(lora=lora, checkpointing=checkpointing)
        reason = _why_whole(scenario)
        columns[name] = [gib_needed(items) for items in plans(replace(scenario, sharded=reason is None), _GPUS)]
        title = f"{scenario.model.config.model_type}, {scenario.rows} rows of {scenario.length} tokens on each GPU"
    Console().print(_table(title, columns))
    notes = ["GiB needed on each GPU, and the smallest of 24, 40, 80 and 141 GB that is enough"]
    shared = "two and more GPUs share the model (FSDP2); with DDP each needs what one alone does, with gradients twice"
    notes.append(shared if reason is None else f"each GPU has its own model: {reason}")
    if find_spec("peft") is None:
        notes.append("LoRA is left out, as peft is not installed")
    if has_experts(scenario):
        notes.append(EXPERTS)
    print(printable("\n".join(notes)))


def smallest_card(gib: float) -> str:
    """Return the smallest GPU with so much memory, or ``none``."""
    return next((f"{size} GB" for size, usable in _CARDS.items() if gib <= usable), "none")


def _why_whole(scenario: MemoryScenario) -> str | None:
    """Return why GPUs cannot share the model, or None."""
    if scenario.feature_layer is not None:
        return "the noise strategy takes features of a whole frozen copy"
    layer = nn.Linear(2, 2, device="meta")
    mark_hidden_matrices(layer)
    is_muon = isinstance(scenario.optimizer(list(layer.named_parameters())), MuonAdamW)
    return "MuonAdamW needs whole matrices; with AdamW the GPUs can share it" if is_muon else None


def _table(title: str, columns: dict[str, list[float]]) -> Table:
    table = Table(title=Text(printable(title)))
    for name in ("GPUs", *columns):
        table.add_column(name, justify="right")
    for row, gpus in enumerate(_GPUS):
        needs = [column[row] for column in columns.values()]
        table.add_row(str(gpus), *(f"{need:.1f}: {smallest_card(need)}" for need in needs))
    return table
