"""The file of past conversations: a row for each answer."""

import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from dmaxlit.cli.chat.session import ChatSession
from dmaxlit.errors import UserError
from dmaxlit.files import open_to_append, require_no_link, writable_path

_MAX_RECALLED = 1000  # texts that the arrow keys bring back


def default_path() -> Path:
    """Return the file in the user's state folder, by the XDG Base Directory Specification."""
    folder = os.environ.get("XDG_STATE_HOME", "")
    # By the specification, a relative path is ignored.
    return (Path(folder) if os.path.isabs(folder) else Path.home() / ".local" / "state") / "dmaxlit" / "chat.jsonl"


class ChatHistory:
    """A file to which every answer is added, readable by its owner only.

    Rows are JSON objects with ``conversation``, ``time``, ``model``, ``decoder``, ``system``, ``prompt``, ``response``,
    ``stopped``, ``num_tokens``, ``num_forwards`` and ``seed``. An answer by ``/retry`` is a row of its own.

    Args:
        path: The file; it is created with its folder.
        model: Name of the model.

    Raises:
        UserError: If it cannot be written.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = writable_path(path, "history")
        self._model = model
        self._conversation = secrets.token_hex(8)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            require_no_link(self.path)
            os.close(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        except OSError as error:
            raise UserError(f"history: cannot write {str(path)!r} ({error.strerror})") from error

    def begin(self) -> None:
        """Give the next rows the name of a new conversation."""
        self._conversation = secrets.token_hex(8)

    def add(self, session: ChatSession) -> None:
        """Add the last answer of a session.

        Raises:
            OSError: If the file cannot be written.
        """
        exchange = session.exchanges[-1]
        row = {
            "conversation": self._conversation,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": self._model,
            "decoder": session.settings.title,
            "system": session.system,
            "prompt": exchange.user,
            "response": exchange.answer,
            "stopped": exchange.generation is None,
            "num_tokens": exchange.num_tokens,
            "num_forwards": exchange.num_forwards,
            "seed": exchange.seed,
        }
        with open_to_append(self.path) as file:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def texts(self) -> list[str]:
        """Return the user's last texts, oldest first; rows that are no such rows are passed over."""
        found: list[str] = []
        with self.path.open("rb") as file:
            for line in file:
                try:
                    text = json.loads(line)["prompt"]
                except (ValueError, KeyError, TypeError):
                    continue
                if isinstance(text, str) and found[-1:] != [text]:
                    found.append(text)
        return found[-_MAX_RECALLED:]
