"""Bounds of a sandbox, and what a run in it gave."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from dmaxlit.errors import UserError, check_at_least, check_choice

__all__ = ["Bound", "Level", "Outcome", "Output", "SandboxSettings", "Verdict"]

Level = Literal["auto", "bubblewrap", "namespaces", "rlimits"]
#: A bound at which a run is ended from outside.
Bound = Literal["wall_seconds", "output_kib"]
Outcome = Literal["passed", "failed", "timeout", "error"]


@dataclass(frozen=True)
class SandboxSettings:
    """Bounds of every process of a sandbox.

    Args:
        level: How the processes are separated. ``bubblewrap``: by the program of that name. ``namespaces``: by our own
            calls of the same parts of Linux. ``rlimits``: by resource limits and refused system calls only; a warning
            says what is not enforced. ``auto``: the first of the first two that works here.
        wall_seconds: Time from the start to the verdict.
        cpu_seconds: CPU time of each process.
        memory_mib: Address space of each process, in MiB.
        processes: Processes that a sample may have, each thread counted as one; 1 forbids others and programs, and
            leaves it 256 threads.
        file_mib: Size of the scratch folder and of each file in it, in MiB.
        output_kib: Output that a program may write, in KiB.
        site_packages: Whether samples may import the packages of this environment, beyond the standard library.

    Raises:
        UserError: If a bound is below its least.
    """

    #: Whether ``rlimits`` will do; false for configurations from strangers.
    admits_rlimits: ClassVar[bool] = True

    level: Level = "auto"
    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_mib: int = 1024
    processes: int = 1
    file_mib: int = 16
    output_kib: int = 256
    site_packages: bool = False

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_choice("level", self.level, get_args(Level))
        if self.level == "rlimits" and not self.admits_rlimits:
            raise UserError(
                "sandbox: expected rlimits on the command line (--task.sandbox rlimits), got it from a file"
            )
        if not 0 < self.wall_seconds < float("inf"):
            raise UserError(f"wall_seconds: expected a positive number, got {self.wall_seconds}")
        # In less than 64 MiB Python does not start.
        least = {"cpu_seconds": 1, "memory_mib": 64, "processes": 1, "file_mib": 1, "output_kib": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if type(value) is not int:
                raise UserError(f"{name}: expected a whole number, got {value!r}")
            check_at_least(bound, **{name: value})


@dataclass(frozen=True)
class Verdict:
    """What the tests said about a sample.

    Args:
        outcome: ``passed``; ``failed``; ``timeout`` after ``wall_seconds``; ``error`` if the tests cannot be run with
            any sample.
        detail: The reason in one line, empty if it passed.
        seconds: Time that it took.
        level: How the processes were separated.
    """

    outcome: Outcome
    detail: str
    seconds: float
    level: Level

    @property
    def passed(self) -> bool:
        """Whether the tests said that the sample passed."""
        return self.outcome == "passed"


@dataclass(frozen=True)
class Output:
    """What a program gave.

    Args:
        status: Exit status; negative for the signal that ended it; None if it was ended at a bound.
        stdout: Standard output, up to the bound. Bytes that are no UTF-8 are replaced.
        stderr: Standard error, likewise.
        stopped_by: ``wall_seconds`` or ``output_kib`` if it was ended at that bound, or None.
        seconds: Time that it took.
        level: How the process was separated.
    """

    status: int | None
    stdout: str
    stderr: str
    stopped_by: Bound | None
    seconds: float
    level: Level
