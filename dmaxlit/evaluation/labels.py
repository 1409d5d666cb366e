"""Labels: names of tasks and settings that are also names of folders and files."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError, describe_value

_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*")
_LONGEST = 80  # characters


def check_label(label: Any, source: str) -> str:
    """Return a label that can name a folder on every system.

    Args:
        label: The label.
        source: Where it comes from, for messages.

    Raises:
        UserError: If it has other characters than letters, digits and ``_ . + = -``, or is too long.
    """
    if not isinstance(label, str) or not _LABEL.fullmatch(label) or len(label) > _LONGEST:
        raise UserError(
            f"{source}: expected a label of at most {_LONGEST} letters, digits and _.+=-, got {label!r}; "
            "give it one (label: NAME)"
        )
    return label


def file_name(title: str) -> str:
    """Return the name, without a suffix, of the file of a setting: its title with other characters replaced.

    Two titles have different names, unless they differ in spaces and dashes alone (:func:`check_titles`): one in which
    other characters had to be replaced ends with a hash.
    """
    name = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", title).strip(".-")
    if name == title.replace(" ", "-") and len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{hashlib.sha256(title.encode()).hexdigest()[:8]}"


def check_titles(titles: Iterable[str], source: str) -> None:
    """Refuse settings of the same title, or whose files would have the same name.

    Args:
        titles: Their titles; in tags, a title's parts between slashes are folders.
        source: Where they come from, for messages.

    Raises:
        UserError: For the first two.
    """
    known: dict[tuple[str, ...], str] = {}
    for title in titles:
        name = tuple(map(file_name, title.split("/")))
        if known.get(name) == title:
            raise UserError(f"{source}: expected different settings, got {title!r} twice")
        if name in known:
            raise UserError(
                f"{source}: expected labels that differ in more than spaces and dashes, "
                f"got {known[name]!r} and {title!r}"
            )
        known[name] = title


def sample_path(label: str, title: str) -> Path:
    """Return the path, in the folder of a run, of the answers to a task in a setting.

    Args:
        label: The task's label.
        title: The setting's title.
    """
    return Path(label) / f"{file_name(title)}.jsonl"


def check_mapping(entry: Any, keys: Sequence[str], source: str) -> dict[str, Any]:
    """Return an entry of a list of tasks or decoders, which has a ``name`` and maybe ``options``.

    Args:
        entry: What the file holds.
        keys: The known keys.
        source: Where it comes from, for messages.

    Raises:
        UserError: If it is no mapping, has another key, no name, or options that are no mapping.
    """
    if not isinstance(entry, dict):
        raise UserError(f"{source}: expected a name, or a mapping with {', '.join(keys)}, got {describe_value(entry)}")
    for key in entry:
        if key not in keys:
            raise UserError(f"{source}: expected keys of {', '.join(keys)}, got {key!r}")
    if not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise UserError(f"{source}: expected a name, got {entry.get('name')!r}")
    options = entry.get("options") or {}
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise UserError(f"{source}: expected options as a mapping, got {describe_value(options)}")
    return {key: value for key, value in entry.items() if value is not None}
