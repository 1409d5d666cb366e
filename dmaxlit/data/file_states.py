"""Whether files are still what they were: by size and times, and by their content where these differ."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileState:
    """What the file system says of a file.

    Args:
        path: Its absolute path.
        size: Bytes.
        mtime_ns: Time of the last change of its content; tools that copy set it.
        ctime_ns: Time of the last change of anything; nobody can set it.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Read the state of a file.

        Raises:
            OSError: If it does not exist.
        """
        status = path.stat()
        return cls(str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def recorded_states(states: Sequence[FileState]) -> list[dict[str, Any]]:
    """Return states with the hash of each file's content, to be written as JSON.

    Raises:
        OSError: If a file cannot be read.
    """
    return [asdict(state) | {"sha256": _content_hash(state.path)} for state in states]


def first_change(recorded: Sequence[dict[str, Any]], states: Sequence[FileState]) -> str | None:
    """Return the path of the first file whose content is not the recorded one; None if there is none.

    A file is read only if its times are others, as after a copy.

    Args:
        recorded: What :func:`recorded_states` returned.
        states: The present states.
    """
    for number, state in enumerate(states):
        before = recorded[number] if number < len(recorded) else {}
        if {name: before.get(name) for name in asdict(state)} == asdict(state):
            continue
        is_same_size = (before.get("path"), before.get("size")) == (state.path, state.size)
        if not is_same_size or before.get("sha256") != _content_hash(state.path):
            return state.path
    return str(recorded[len(states)].get("path")) if len(recorded) > len(states) else None


def _content_hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
