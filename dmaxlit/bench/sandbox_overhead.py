"""What the sandbox adds to the time of an answer that is a program."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

from dmaxlit.sandbox import SandboxSettings, Verdict, run_tests

_CODE, _TESTS = "def nothing():\n    pass\n", "assert nothing() is None"


@dataclass(frozen=True)
class SandboxOverhead:
    """Times of a function that does nothing, from its code to the verdict.

    Args:
        level: How it was separated.
        runs: Number of runs.
        median: Median, in seconds.
        percentile_95: 95th percentile, in seconds.
    """

    level: str
    runs: int
    median: float
    percentile_95: float

    def line(self) -> str:
        """Return the figures as a sentence."""
        return (
            f"Sandbox ({self.level}): a function that does nothing takes {1000 * self.median:.0f} ms (median), "
            f"{1000 * self.percentile_95:.0f} ms (95th percentile of {self.runs})."
        )


def sandbox_overhead(
    runs: int = 100,
    settings: SandboxSettings | None = None,
    judge: Callable[..., Verdict] = run_tests,
    clock: Callable[[], float] = time.perf_counter,
) -> SandboxOverhead:
    """Measure what the sandbox takes for one answer.

    Args:
        runs: Number of runs, at least two. One more before them is not counted.
        settings: Bounds of the sandbox.
        judge: What judges the code, :func:`~dmaxlit.sandbox.run_tests`.
        clock: Returns the time in seconds.

    Raises:
        UserError: If this machine has no such sandbox.
    """
    level = judge(_CODE, _TESTS, settings=settings).level
    times = []
    for _ in range(runs):
        begin = clock()
        verdict = judge(_CODE, _TESTS, settings=settings)
        times.append(clock() - begin)
        assert verdict.passed, verdict
    return SandboxOverhead(level, runs, median(times), quantiles(times, n=20, method="inclusive")[-1])
