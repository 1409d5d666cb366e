"""The file of past conversations: a row for each answer."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dmaxlit.cli.chat.session import ChatSession, Exchange
from dmaxlit.data.json_lines import json_line
from dmaxlit.errors import UserError
from dmaxlit.files import open_to_append, require_no_link, writable_path

_MAX_RECALLED = 1000  # texts that the arrow keys bring back
_NUM_NAMED = 5  # conversations that a refusal names


@dataclass
class Conversation:
    """A conversation of the file.

    Args:
        name: Its name.
        system: Text of the system's turn; empty for none.
        exchanges: The turns, without the answers that others have replaced.
        time: When the last answer was added.
    """

    name: str
    system: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    time: str = ""

    def add(self, row: dict[str, Any]) -> None:
        """Add a row of the file.

        Raises:
            KeyError: If the row lacks a field.
            TypeError: If a field is of another type.
        """
        texts = [row[name] for name in ("system", "prompt", "response", "time")]
        numbers = [row[name] for name in ("num_tokens", "num_forwards", "seed")]
        if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
            raise TypeError("no row of a chat")
        if row.get("retry") is True:
            del self.exchanges[-1:]
        self.system, prompt, response, self.time = texts
        num_tokens, num_forwards, seed = numbers
        self.exchanges.append(Exchange(prompt, response, num_tokens, num_forwards, 0.0, seed))


def default_path() -> Path:
    """Return the file in the user's state folder, by the XDG Base Directory Specification."""
    folder = os.environ.get("XDG_STATE_HOME", "")
    # By the specification, a relative path is ignored.
    return (Path(folder) if os.path.isabs(folder) else Path.home() / ".local" / "state") / "dmaxlit" / "chat.jsonl"


class ChatHistory:
    """A file to which every answer is added, readable by its owner only.

    Rows are JSON objects with ``conversation``, ``time``, ``model``, ``decoder``, ``system``, ``prompt``, ``response``,
    ``stopped``, ``retry``, ``num_tokens``, ``num_forwards`` and ``seed``. An answer by ``/retry`` is a row of its own.

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

    def add(self, session: ChatSession, is_retry: bool = False) -> None:
        """Add the last answer of a session.

        Args:
            session: The session.
            is_retry: Whether it replaces the answer that was added before it.

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
            "retry": is_retry,
            "num_tokens": exchange.num_tokens,
            "num_forwards": exchange.num_forwards,
            "seed": exchange.seed,
        }
        with open_to_append(self.path) as file:
            begin = b"\n" if self._ends_within_a_row() else b""
            file.write(begin + json_line(row))

    def texts(self) -> list[str]:
        """Return the user's last texts, oldest first; rows that are no such rows are passed over."""
        found: list[str] = []
        for row in self._rows():
            if row["prompt"] not in found[-1:]:
                found.append(row["prompt"])
        return found[-_MAX_RECALLED:]

    def resume(self, name: str | None = None) -> Conversation:
        """Return a conversation of the file; what is added from now on belongs to it.

        Args:
            name: How its name begins. Default: the one that was added to last.

        Raises:
            UserError: If there is none of that name, or several.
        """
        known: dict[str, Conversation] = {}
        for row in self._rows():
            key = row.get("conversation")
            if isinstance(key, str):
                conversation = known.pop(key, None) or Conversation(key)
                with contextlib.suppress(KeyError, TypeError):
                    conversation.add(row)
                known[key] = conversation  # the one that was added to last is the last
        known = {key: conversation for key, conversation in known.items() if conversation.exchanges}
        fitting = [conversation for key, conversation in known.items() if key.startswith(name or "")]
        if not fitting or (name and len(fitting) > 1):
            latest = ", ".join([*known][: -_NUM_NAMED - 1 : -1]) or "none"
            wanted = "a conversation to continue" if name is None else f"the name of one conversation, got {name!r}"
            raise UserError(f"resume: expected {wanted}; the latest of {str(self.path)!r}: {latest}")
        self._conversation = fitting[-1].name
        return fitting[-1]

    def _ends_within_a_row(self) -> bool:
        """Return whether the last row is half a one, as on a disk that was full: this one would be lost with it."""
        with self.path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows with a prompt; others are passed over."""
        with self.path.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict) and isinstance(row.get("prompt"), str):
                    yield row
