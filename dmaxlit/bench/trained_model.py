"""A model that a benchmark trains in a folder, once, and the CPU time of that."""

import json
import resource
from pathlib import Path

from dmaxlit.bench.command import fit
from dmaxlit.checkpoints.lightning_file import checkpoint_to_folder
from dmaxlit.files import write_json

_SECONDS = "cpu_seconds.json"


def trained_model(folder: Path, recipe: Path, seed: int, *options: str) -> str:
    """Train a model unless that is done; return its folder, ``model`` in the folder of the run.

    Args:
        folder: Folder of the run. An interrupted run is resumed there.
        recipe: Configuration file.
        seed: Training seed.
        options: Further options of ``dmaxlit fit``; they override the recipe.

    Raises:
        UserError: If training fails.
    """
    model = folder / "model"
    if not model.is_dir():
        begin = _seconds_of_children()
        try:
            checkpoint = fit(recipe, folder, seed, *options)
        finally:  # an interrupted run goes on where it stopped
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / _SECONDS
            write_json(path, (training_seconds(folder) or 0.0) + _seconds_of_children() - begin)
        checkpoint_to_folder(checkpoint, model)
    return str(model)


def training_seconds(folder: Path) -> float | None:
    """Return the CPU time of training in a folder so far, or None if nothing was trained there."""
    path = folder / _SECONDS
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
