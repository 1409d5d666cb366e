"""The table of scaling: how fast several processes are, and where the rest of their time goes."""

from collections.abc import Sequence
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
    """

    command: str
    way: str
    scaling: str
    processes: int
    tokens_per_second: float
    cpu_seconds_per_token: float
    communication: float
    rest_seconds: float


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
    """Format measurements as a Markdown table of medians over their repeats.

    The efficiency of ``n`` processes is their speed over ``n`` times that of one alone.
    """
    groups: dict[tuple[str, str, str, int], list[ScaleRun]] = {}
    for run in runs:
        groups.setdefault((run.command, run.way, run.scaling, run.processes), []).append(run)
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
        alone = groups[command, "alone", "", 1]
        rate, alone_rate = _median(groups[key], "tokens_per_second"), _median(alone, "tokens_per_second")
        alone_cpu = _median(alone, "cpu_seconds_per_token")
        rest = "" if command == "fit" else f"{_median(groups[key], 'rest_seconds'):.1f}"
        label = f"{command}, {way}" if command == "fit" and way != "alone" else command
        if processes == 1:
            lines.append(f"| {label} | 1 | | {rate:.0f} | 1.00 | | | 1.00 | | | {rest} |")
            continue
        separate = groups[command, "apart", scaling, processes]
        apart = _median(separate, "tokens_per_second")
        cpu, apart_cpu = (_median(runs, "cpu_seconds_per_token") / alone_cpu for runs in (groups[key], separate))
        lines.append(
            f"| {label} | {processes} | {scaling} | {rate:.0f} | {rate / alone_rate / processes:.2f} "
            f"| {apart / alone_rate / processes:.2f} | {rate / apart:.2f} | {cpu:.2f} | {apart_cpu:.2f} "
            f"| {100 * _median(groups[key], 'communication'):.0f} | {rest} |"
        )
    return "\n".join(lines)


def _median(runs: Sequence[ScaleRun], name: str) -> float:
    return float(median(getattr(run, name) for run in runs))
