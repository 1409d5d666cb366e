"""The output folder of a benchmark: the settings that its results depend on, and the files that hold the results."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.data.identity import difference
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.software import software
from dmaxlit.files import write_json, write_text
from dmaxlit.locks import exclusive_folder

_RESULTS = "results.json"
_SETTINGS = "settings.json"
_RECIPES = "recipes"
_SOFTWARE = "software"
_ANOTHER = "choose another --output"


class _Bench(Protocol):
    @property
    def output(self) -> Path: ...


B = TypeVar("B", bound=_Bench)


def holds_output(run: Callable[[B], str]) -> Callable[[B], str]:
    """Let a benchmark run only while no other process writes to its output folder."""

    @wraps(run)
    def run_alone(bench: B) -> str:
        with exclusive_folder(bench.output, "output"):
            return run(bench)

    return run_alone


def record_settings(folder: Path, settings: dict[str, Any], recipes: Mapping[str, str] | None = None) -> None:
    """Record in ``settings.json`` what the results in a folder depend on, so that others are not mixed in.

    It records the versions of the code, too, all that wrote to the folder, and beside them the kind of device that
    models are trained on. Those of other versions or devices are kept, with a warning. What an older folder does not
    record is not compared.

    Args:
        folder: The output folder, created if it does not exist.
        settings: The settings that all results of the folder share.
        recipes: Hashes of recipes that models are trained by.

    Raises:
        UserError: If the folder holds results of other settings or recipes.
    """
    path, recipes, now = folder / _SETTINGS, recipes or {}, software()
    if recipes:
        now["training device"] = _training_device()
    recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, value in settings.items():
        if recorded.get(name, value) != value:
            raise UserError(
                f"{name}: expected {recorded[name]}, as in the results in {folder}, got {value}; {_ANOTHER}"
            )
    known = recorded.get(_RECIPES, {})
    for name, value in recipes.items():
        if known.get(name, value) != value:
            raise UserError(f"configs: expected {name} as it was for the results in {folder}, got another; {_ANOTHER}")
    is_older = bool(recorded) or (folder / _RESULTS).is_file()  # than the record of versions
    others = [versions for versions in recorded.get(_SOFTWARE, [None] if is_older else []) if versions != now]
    if others:
        change = "unrecorded ones" if others[-1] is None else difference(others[-1], now)
        rank_zero_warn(f"output: what {folder} keeps is of other versions: {change}", category=DMaxWarning)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {**settings, _RECIPES: {**known, **recipes}, _SOFTWARE: [*others, now]})


def _training_device() -> str:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None else accelerator.type


def kept_runs(
    folder: Path,
    runs: Iterable[tuple[str, Callable[[], Any]]],
    is_complete: Callable[[Any], bool] = lambda run: True,
) -> list[Any]:
    """Measure what is missing, and keep each measurement, so that an interrupted benchmark resumes.

    Args:
        folder: The output folder.
        runs: Name of each measurement, and what makes it: plain values.
        is_complete: Tells whether a kept measurement has all that is asked for; one that has not is taken again.

    Returns:
        These measurements, in order. Others that the folder holds are left out.
    """
    kept, measured = runs_folder(folder), []
    kept.mkdir(parents=True, exist_ok=True)
    for name, measure in runs:
        path = kept / f"{name}.json"
        run = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if run is None or not is_complete(run):
            run = measure()
            write_json(path, run)
        measured.append(run)
    return measured


def runs_folder(folder: Path) -> Path:
    """Return the folder of the measurements that an output folder keeps."""
    return folder / "runs"


def write_results(folder: Path, content: Mapping[str, Any], table: str, output: Path | None = None) -> None:
    """Write the results of a benchmark, with the versions of the code that made them.

    These are all that :func:`record_settings` has recorded in the output folder, or else the one that runs now.

    Args:
        folder: The output folder.
        content: Plain values for ``results.json``.
        table: Markdown for ``table.md``.
        output: The output folder, if ``folder`` is one within it.
    """
    record = (output or folder) / _SETTINGS
    versions = json.loads(record.read_text(encoding="utf-8"))[_SOFTWARE] if record.is_file() else [software()]
    write_json(folder / _RESULTS, {**content, _SOFTWARE: versions})
    write_text(folder / "table.md", table + "\n")
