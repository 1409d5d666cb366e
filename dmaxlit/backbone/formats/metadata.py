"""``dmaxlit.json``, in which a model folder stores what the model's config lacks, and its schema."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmaxlit.backbone.formats.judged import check_decoding, check_figures, is_line
from dmaxlit.errors import UserError

__all__ = ["read_metadata"]

METADATA_FILE = "dmaxlit.json"
AUXILIARY_FOLDER = "auxiliary"  # in an export; see dmaxlit.backbone.auxiliary_source
NEXT_TOKEN = "next token"  # the objective of autoregressive training, as ``training`` names it
_NAME = re.compile(r"[\w.:/-]{1,200}")


def read_metadata(folder: Path | str) -> dict[str, Any]:
    """Read ``dmaxlit.json`` in a model folder; empty if there is none, as in checkpoints of other origin.

    Raises:
        UserError: If the file is damaged, or a field in it is of the wrong type.
    """
    path = Path(folder) / METADATA_FILE
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"pretrained: {path} is not valid JSON ({error})") from error
    return check_metadata(metadata, f"pretrained: {path}")


def check_metadata(metadata: Any, source: str) -> dict[str, Any]:
    """Return metadata whose fields are of the expected types; fields unknown to this version are kept.

    Args:
        metadata: What was read.
        source: Start of the message: the argument and the file.

    Raises:
        UserError: For the first field that is not.
    """
    if not isinstance(metadata, dict):
        raise UserError(f"{source}: expected an object, got {metadata!r:.80}")
    for name in ("block_length", "max_length"):
        value = metadata.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise UserError(f"{source}: {name}: expected a number of tokens, at least 1, got {value!r:.80}")
    task = metadata.get("task")
    if task is not None and not _is_task(task):
        raise UserError(f"{source}: task: expected an object with a name and options, got {task!r:.80}")
    base = metadata.get("base_model")
    if base is not None and not _is_name(base):
        raise UserError(f"{source}: base_model: expected the name of a model, got {base!r:.80}")
    for name in ("training", "auxiliary_training"):
        training = metadata.get(name)
        if training is not None and not _is_training(training):
            raise UserError(
                f"{source}: {name}: expected an object with noise or objective, and steps, got {training!r:.80}"
            )
    datasets = metadata.get("datasets")
    if datasets is not None and not (isinstance(datasets, list) and all(map(_is_name, datasets))):
        raise UserError(f"{source}: datasets: expected a list of names, got {datasets!r:.80}")
    check_decoding(metadata.get("decoding"), source)
    check_figures(metadata.get("figures"), source)
    return metadata


def is_autoregressive(metadata: Mapping[str, Any]) -> bool:
    """Return whether a model's last training was on the next token, so that it is no diffusion language model yet."""
    return (metadata.get("training") or {}).get("objective") == NEXT_TOKEN


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


def _is_training(value: Any) -> bool:
    if not isinstance(value, Mapping) or type(value.get("steps")) is not int:
        return False
    return is_line(value["objective"]) if "objective" in value else _is_name(value.get("noise"))


def _is_task(task: Any) -> bool:
    return isinstance(task, Mapping) and _is_name(task.get("name")) and isinstance(task.get("options", {}), dict)
