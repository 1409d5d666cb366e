"""``dmaxlit lm_eval``."""

import sys

from dmaxlit.cli.known_warnings import silence_known_warnings
from dmaxlit.errors import UserError
from dmaxlit.registry import Registry


def run(command: str, args: list[str]) -> None:
    """Run lm-evaluation-harness with ``dmaxlit`` among its models; its own parser reads the arguments.

    Raises:
        UserError: If it is not installed, the model's arguments cannot be used, or ``--safe`` is among them.
    """
    if not Registry.admits_import_paths:
        raise UserError("safe: expected no --safe with lm_eval, whose tasks are code, got --safe")
    from dmaxlit.harness import register

    register()
    from lm_eval.__main__ import cli_evaluate

    silence_known_warnings()
    ours = sys.argv
    sys.argv = [f"dmaxlit {command}", *(args or ["--help"])]
    try:
        cli_evaluate()
    finally:
        sys.argv = ours
