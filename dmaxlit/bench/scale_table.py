"""The table of scaling: how fast several processes are, and where the rest of their time goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from dmaxlit.bench.process_figures import ProcessFigures


@dataclass(frozen=True)
class ScaleJob:
    """What is measured.

    Args:
        command: ``distill``, ``evaluate`` or ``fit``.
        way: ``alone``: one process. ``apart``: as many separate runs at the same time. ``shared``, or of ``fit`` the
            strategy (``DDP``, ``FSDP2``): one run on several processes.
        scaling: ``strong``: each process has its share of the work of one alone; ``weak``: as much; empty if alone.
        processes: Number of processes, of all runs at the same time.
    """

    command: str
    way: str
    scaling: str
    processes: int

    @property
    def name(self) -> str:
        """Name of the measurement in files."""
        return "-".join(filter(None, (self.command, str(self.processes), self.scaling, self.way)))

    def share(self, work: int) -> int:
        """Return the work of each process, given that of one alone."""
        return work // self.processes if self.scaling == "strong" else work


@dataclass(frozen=True)
class ScaleRun:
    """One measurement.

    Args:
        command: See :class:`ScaleJob`.
        way: See :class:`ScaleJob`.
        scaling: See :class:`ScaleJob`.
        processes: See :class:`ScaleJob`.
        tokens_per_second: Tokens of all processes over the time until the last one is done; of separate runs the sum of
            their speeds.
        cpu_seconds_per_token: Time of all cores, over tokens.
        communication: Of decoding the share of its time in which a process waits for the slowest; of training that in
            which a collective is under way, whether the process computes meanwhile or not. Mean over processes.
        rest_seconds: Time of the command after its start in which the slowest process does not decode.
        repeat: Turn in which it was measured. None in results of older versions, which are in the order of the turns.
    """

    command: str
    way: str
    scaling: str
    processes: int
    tokens_per_second: float
    cpu_seconds_per_token: float
    communication: float
    rest_seconds: float
    repeat: int | None = None


def run_of_figures(job: ScaleJob, figures: Sequence[ProcessFigures]) -> ScaleRun:
    """Return a measurement from the figures of its processes."""
    assert len(figures) == job.processes, "each process writes its own"
    slowest = max(process.seconds for process in figures)
    tokens = sum(process.tokens for process in figures)
    rate = tokens / slowest
    if job.way == "apart":
        rate = sum(process.tokens / process.seconds for process in figures)
    collectives = [process.in_collectives for process in figures if process.in_collectives is not None]
    waits = 1 - fmean(process.seconds for process in figures) / slowest
    return ScaleRun(
        command=job.command,
        way=job.way,
        scaling=job.scaling,
        processes=job.processes,
        tokens_per_second=rate,
        cpu_seconds_per_token=sum(process.cpu_seconds for process in figures) / tokens,
        communication=fmean(collectives) if collectives else waits,
        rest_seconds=max(process.rest_seconds for process in figures),
    )


def format_table(runs: Sequence[ScaleRun]) -> str:
    """Format measurements as a Markdown table of medians over their turns.

    The efficiency of ``n`` processes is their speed over ``n`` times that of one alone. Ratios are those of two
    measurements in the same turn, since what else the machine does changes between turns.
    """
    groups: dict[tuple[str, str, str, int], dict[int, ScaleRun]] = {}
    for run in runs:
        turns = groups.setdefault((run.command, run.way, run.scaling, run.processes), {})
        turns[len(turns) if run.repeat is None else run.repeat] = run
    lines = [
        "| command | processes | scaling | tokens/s | efficiency | apart | of apart | CPU time | apart "
        "| communication % | rest s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = ["distill", "evaluate", "fit"]
    for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1] != "alone", key[1], key[3], key[2])):
        command, way, scaling, processes = key
        if way == "apart":
            continue
        own, alone = groups[key], groups[command, "alone", "", 1]
        rate = _median(own, "tokens_per_second")
        rest = "" if command == "fit" else f"{_median(own, 'rest_seconds'):.1f}"
        label = f"{command}, {way}" if command == "fit" and way != "alone" else command
        if processes == 1:
            lines.append(f"| {label} | 1 | | {rate:.0f} | 1.00 | | | 1.00 | | | {rest} |")
            continue
        separate = groups[command, "apart", scaling, processes]
        efficiency, apart = (_ratio(turns, alone, "tokens_per_second") / processes for turns in (own, separate))
        cpu, apart_cpu = (_ratio(turns, alone, "cpu_seconds_per_token") for turns in (own, separate))
        lines.append(
            f"| {label} | {processes} | {scaling} | {rate:.0f} | {efficiency:.2f} | {apart:.2f} "
            f"| {_ratio(own, separate, 'tokens_per_second'):.2f} | {cpu:.2f} | {apart_cpu:.2f} "
            f"| {100 * _median(own, 'communication'):.0f} | {rest} |"
        )
    return "\n".join(lines)


def _median(turns: Mapping[int, ScaleRun], name: str) -> float:
    return float(median(getattr(run, name) for run in turns.values()))


def _ratio(turns: Mapping[int, ScaleRun], baseline: Mapping[int, ScaleRun], name: str) -> float:
    """Return the median over the turns of a figure's ratio to that of a baseline."""
    return float(median(getattr(run, name) / getattr(baseline[turn], name) for turn, run in turns.items()))
