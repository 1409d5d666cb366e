"""How fast several GPUs can train: the table of ``dmaxlit plan --network_gbits``."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dmaxlit.errors import printable
from dmaxlit.training.communication_plan import Speeds, operations, received_bytes
from dmaxlit.training.memory_scenario import MemoryScenario

GPUS = (1, 2, 4, 8, 16, 32, 64)


def print_network_table(scenario: MemoryScenario, speeds: Speeds, gpus: Sequence[int]) -> None:
    """Print, for some numbers of GPUs, how long they exchange and compute.

    Args:
        scenario: The training run.
        speeds: What the GPUs and their links reach.
        gpus: The numbers.
    """
    layout = "shared (FSDP2)" if scenario.sharded else "each with its own model (DDP)"
    title = (
        f"{scenario.model.config.model_type}, {layout}, {scenario.rows} rows of {scenario.length} tokens on each GPU"
    )
    table = Table(title=Text(printable(title)))
    for name in ("GPUs", "each receives GB", "s", "computes TFLOP", "s", "of the time computing", "rows for as long"):
        table.add_column(name, justify="right")
    for number in gpus:
        table.add_row(*_row(replace(scenario, gpus=number), speeds))
    Console().print(table)
    note = (
        f"a micro-batch that ends in an update, with {speeds.flops / 1e12:g} TFLOP/s on a GPU, {speeds.link / 1e9:g} "
        f"GB/s within a node of {speeds.gpus_per_node} GPUs\nand {speeds.network * 8 / 1e9:g} Gbit/s between nodes; "
        "what is exchanged is taken to overlap with computing"
    )
    print(printable(note))


def _row(scenario: MemoryScenario, speeds: Speeds) -> list[str]:
    received, work = received_bytes(scenario), operations(scenario)
    transfer, computing = received / speeds.bandwidth(scenario.gpus), work / speeds.flops
    share = computing / max(computing, transfer)
    rows = f"{scenario.rows * transfer / computing:.1f}" if received else "-"
    figures = f"{received / 1e9:.1f}", f"{transfer:.3f}", f"{work / 1e12:.1f}", f"{computing:.3f}"
    return [str(scenario.gpus), *figures, f"{100 * share:.0f}%", rows]
