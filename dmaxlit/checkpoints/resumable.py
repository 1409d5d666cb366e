"""What training needs of a checkpoint to go on from it, checked before anything of it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmaxlit.checkpoints.schema import json_of
from dmaxlit.errors import UserError, describe_value

_KINDS = {int: "an integer", str: "a text", dict: "a dictionary", list: "a list", bool: "true or false"}
_OF_CHECKPOINT = {"global_step": int, "epoch": int, "loops": dict, "callbacks": dict, "lr_schedulers": list}
_OF_LOOPS = dict.fromkeys(
    ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress", "epoch_loop.state_dict"), dict
)
_OF_RUN = {
    **{"settings": str, "data": str, "log_step": int, "void_from_step": int, "log_versions": list},
    **{"generators": list, "metrics": dict, "unlogged": dict, "validation_is_due": bool, "train_batch_is_last": bool},
}


def check_resumable(path: str | Path, content: Mapping[str, Any]) -> None:
    """Check that a checkpoint holds what a run resumes from, each under its name and of its type.

    Args:
        path: Its path, for messages.
        content: What was read from it.

    Raises:
        UserError: If something is missing, as in a checkpoint of the weights only, or is of another type.
    """
    _check_fields(path, "", content, _OF_CHECKPOINT)
    for name in ("global_step", "epoch"):
        if content[name] < 0:
            raise _error(path, name, "at least 0", str(content[name]))
    if not Path(path).is_dir():  # a sharded checkpoint has them with the weights
        _check_fields(path, "", content, {"optimizer_states": list})
    _check_fields(path, "loops.", content["loops"], {"fit_loop": dict})
    _check_fields(path, "loops.fit_loop.", content["loops"]["fit_loop"], _OF_LOOPS)
    if "dmaxlit_run" in content:
        _check_fields(path, "", content, {"dmaxlit_run": dict})
        run = content["dmaxlit_run"]
        _check_fields(path, "dmaxlit_run.", run, _OF_RUN)
        if not isinstance(json_of(run["settings"]), dict):
            raise _error(path, "dmaxlit_run.settings", "a JSON object", describe_value(run["settings"]))


def check_step(path: str | Path, content: Mapping[str, Any]) -> None:
    """Check that a checkpoint names its step.

    Raises:
        UserError: If it does not.
    """
    _check_fields(path, "", content, {"global_step": int})


def _check_fields(path: str | Path, prefix: str, content: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    for name, kind in fields.items():
        value = content.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            came = describe_value(value) if name in content else "nothing"
            raise _error(path, f"{prefix}{name}", _KINDS[kind], came)


def _error(path: str | Path, field: str, expected: str, came: str) -> UserError:
    return UserError(f"checkpoint: {str(path)!r} cannot be resumed from: {field}: expected {expected}, got {came}")
