"""The figures of a model card, and the command that made them."""

import shlex
import sys
from pathlib import Path
from typing import Any

from dmaxlit.backbone.formats.judged import check_figures
from dmaxlit.errors import UserError
from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.files import read_json

_FIGURES = ("num_examples", "accuracy", "accuracy_low", "accuracy_high", "tpf")


def figures_of(result: DecodeResult) -> dict[str, Any]:
    """Return what a card shows of a result."""
    values = result.to_dict()
    return {name: values[name] for name in _FIGURES}


def running_command() -> str | None:
    """Return the command line of dmaxlit that is running, in one line; None in a program of the user's own."""
    program = Path(sys.argv[0])
    is_dmaxlit = program.name == "dmaxlit" or program.parts[-2:] == ("dmaxlit", "__main__.py")
    if not is_dmaxlit or any(character in " ".join(sys.argv) for character in "\n|`<>"):
        return None  # a card holds one line of text
    return f"python -m dmaxlit {shlex.join(sys.argv[1:])}"


def read_figures(path: Path) -> dict[str, Any]:
    """Return the figures of the trained model in the ``results.json`` of a run.

    Args:
        path: The file, or the folder of the run.

    Raises:
        UserError: If it is missing, or something else.
    """
    path = path / "results.json" if path.is_dir() else path
    report = read_json(path)
    try:
        rows = [
            {"label": row["label"], **{name: row[name] for name in _FIGURES}}
            for row in report["rows"]
            if row["model"] == "trained"
        ]
        task = report.get("task") or {}
        figures = {"task": task.get("name", ""), "command": report.get("command") or "", "rows": rows}
        check_figures(figures, f"results: {path}")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"results: expected the results.json of a run, got {str(path)!r} without {error}") from error
    if not rows:
        raise UserError(f"results: expected figures of a trained model, got none in {str(path)!r}")
    return figures
