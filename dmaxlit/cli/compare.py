"""``dmaxlit compare``."""

import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmaxlit.cli.arguments import call, make_parser
from dmaxlit.errors import UserError, printable

if TYPE_CHECKING:
    from dmaxlit.evaluation.run_comparison import RunComparison


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    parser = make_parser(command, compare, skip=["runs"])
    parser.add_argument(
        "runs",
        nargs="*",
        default=SUPPRESS,  # else it would replace the runs of a file
        metavar="RUN",
        help="Folders of runs of fit or evaluate, such as runs/*.",
    )
    call(parser, compare, args)


def compare(runs: Sequence[str] = (), csv: str | None = None, json: str | None = None, plot: str | None = None) -> None:
    """Compare runs: what differs between their settings, their figures with 95% intervals, and their curves.

    Runs of fit have figures in results.json (ComparisonReport) and curve.json (SPDValidation), those of evaluate in
    record.json. Folders without figures are named and skipped. The best accuracy of all runs is the y_max of AUP. For
    differences prompt by prompt between two evaluations: evaluate --compare A B.

    Args:
        runs: Folders of runs of fit or evaluate, such as runs/*.
        csv: File for the figures, a row for each run and setting, with the settings that differ.
        json: File for settings, figures and curves of all runs.
        plot: Picture of all curves, .png, .svg or .pdf; of several tasks, a picture for each, named after it.
    """
    from dmaxlit.data.resumable_jsonl import output_path, refusing
    from dmaxlit.evaluation.curve_figure import PICTURES
    from dmaxlit.evaluation.run_comparison import read_runs, runs_csv, runs_table
    from dmaxlit.evaluation.run_figures import CURVE, RESULTS
    from dmaxlit.evaluation.run_folder import RECORD
    from dmaxlit.files import require_other_files, write_json, write_text

    if plot is not None and Path(plot).suffix.lower() not in PICTURES:
        raise UserError(f"plot: expected a file that ends in {', '.join(PICTURES)}, got {plot!r}")
    of_runs = [Path(run) / name for run in runs for name in (RESULTS, CURVE, RECORD)]
    require_other_files({"csv": csv, "json": json, "plot": plot}, {"those of the runs": of_runs})
    outputs = {name: output_path(Path(value), name) for name, value in _given(csv=csv, json=json, plot=plot).items()}
    comparison = read_runs([Path(run) for run in runs])
    for path in comparison.skipped:
        print(printable(f"{path}: no figures of a run; skipped"), file=sys.stderr)
    print(printable(runs_table(comparison)), end="")
    if "csv" in outputs:
        with refusing(outputs["csv"], "csv"):
            write_text(outputs["csv"], runs_csv(comparison))
    if "json" in outputs:
        with refusing(outputs["json"], "json"):
            write_json(outputs["json"], comparison.to_dict())
    if "plot" in outputs:
        _plot(outputs["plot"], comparison)


def _given(**files: str | None) -> dict[str, str]:
    return {name: value for name, value in files.items() if value is not None}


def _plot(path: Path, comparison: "RunComparison") -> None:
    """Draw the curves of each task."""
    from dmaxlit.data.resumable_jsonl import refusing
    from dmaxlit.evaluation.curve_figure import curve_figure, save_picture
    from dmaxlit.evaluation.labels import file_name

    tasks = comparison.curves()
    for task, curves in tasks.items():
        name = file_name(task.replace(", ", "-").replace(" ", "-"))
        picture = path if len(tasks) == 1 else path.with_stem(f"{path.stem}-{name}")
        with refusing(picture, "plot"):
            save_picture(curve_figure(curves, task), picture)
