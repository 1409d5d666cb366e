"""Run code that a model wrote, separated from everything else."""

from dmaxlit.sandbox.isolation import available_levels
from dmaxlit.sandbox.judge import run_tests
from dmaxlit.sandbox.program import run_program
from dmaxlit.sandbox.settings import Output, SandboxSettings, Verdict

__all__ = ["Output", "SandboxSettings", "Verdict", "available_levels", "run_program", "run_tests"]
