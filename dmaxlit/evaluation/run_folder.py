"""The output folder of an evaluation: it holds one run, whose settings it records before anything is decoded."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmaxlit.data.identity import difference
from dmaxlit.data.resumable_jsonl import refusing
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.labels import check_label
from dmaxlit.files import read_json, remove, write_json

_LOCK = ".lock"
_SETTINGS = "settings.json"
_ENVIRONMENTS = "environments"  # in the file of settings
#: Written last: a folder that has it is complete.
RECORD = "record.json"
TABLE = "table.md"
#: The files of a run; the folders of its tasks are next to them.
FILES = (_SETTINGS, RECORD, TABLE)


def claim_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
    """Record the settings of a run in its folder, or check that they are those of the run that it holds.

    Args:
        folder: The output folder, which exists and is held by this process.
        settings: Everything the answers depend on, JSON-able; nested mappings for tasks.
        overwrite: Remove the results of a run that is complete, or has other settings.

    Raises:
        UserError: If it holds a run with other settings, the first of which is named, or files of something else.
    """
    path = folder / _SETTINGS
    if path.is_file():
        recorded = read_json(path)
        recorded.pop(_ENVIRONMENTS, None)
        change = _change(recorded, settings)
        if change is None and not (overwrite and (folder / RECORD).exists()):
            return
        if not overwrite:
            raise UserError(
                f"output: {str(folder)!r} holds a run with other settings: {change}; choose another folder, or "
                "overwrite (--overwrite true)"
            )
        _clear(folder, recorded)
    elif others := sorted(entry.name for entry in folder.iterdir() if entry.name != _LOCK):
        raise UserError(
            f"output: expected a new folder, or that of an evaluation, got {str(folder)!r}, which holds {others[0]!r}"
        )
    with refusing(folder, "output"):
        write_json(path, dict(settings))


def record_environment(folder: Path, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add what answers from now on to the settings in a folder, unless the run is complete.

    Answers of other versions of the code, of prompts in which a chat template has written another day, or of forwards
    by another device, attention or compilation, are kept with a warning.

    Args:
        folder: The output folder, claimed by this process.
        environment: ``software``, ``attention``, ``compile``, and ``device`` and ``batch_size``, JSON-able; ``date`` if
            a chat template writes it.

    Returns:
        All that have answered into the folder, in order.
    """
    recorded = read_json(folder / _SETTINGS)
    environments: list[dict[str, Any]] = recorded.get(_ENVIRONMENTS, [])
    if (folder / RECORD).is_file() or environment in environments:
        return environments
    now = _decisive(environment)
    if others := [other for other in map(_decisive, environments) if other != now]:
        warnings.warn(
            f"output: {str(folder)!r} keeps answers of another environment: {difference(others[-1], now)}",
            DMaxWarning,
            stacklevel=2,
        )
    environments.append(dict(environment))
    with refusing(folder, "output"):
        write_json(folder / _SETTINGS, {**recorded, _ENVIRONMENTS: environments})
    return environments


def _decisive(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may change answers; the rest changes the times alone."""
    device = {name: environment["device"][name] for name in ("type", "name")}
    named = {name: environment[name] for name in ("software", "attention", "compile")}
    return {**named, "date": environment.get("date"), "device": device}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = list(value) if isinstance(value, tuple) else value
    return values


def _change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return in which setting two runs differ, or None; other tasks or decoders by their names."""
    for name in ("tasks", "decoders"):
        before, now = (list(map(str, settings.get(name) or ())) for settings in (old, new))
        if set(before) != set(now):
            return f"{name} were {', '.join(before)}, now {', '.join(now)}"
    return difference(old, new)


def _clear(folder: Path, settings: Mapping[str, Any]) -> None:
    """Remove what a run wrote: the record first, so that the folder is not complete any more."""
    with refusing(folder, "output"):
        for name in (RECORD, TABLE, *(check_label(label, _SETTINGS) for label in settings.get("tasks") or {})):
            remove(folder / name)
