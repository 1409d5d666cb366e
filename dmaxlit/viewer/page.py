"""Builds the page: template, style, program and data in one file that loads nothing else."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import writable_path, write_text
from dmaxlit.viewer.encoding import encode
from dmaxlit.viewer.recording import Recording
from dmaxlit.viewer.visible import visible

_FOLDER = Path(__file__).parent
_SCRIPTS = ("recording.js", "heatmap.js", "panel.js", "viewer.js")


@dataclass(frozen=True)
class Panel:
    """One trace on the page; panels are side by side, and step together.

    Args:
        label: Name of the trace.
        recordings: Its recordings, by the prompt's index.
        texts: Text of every token id in them.
    """

    label: str
    recordings: Mapping[int, Recording]
    texts: Mapping[int, str]


def page(panels: Sequence[Panel], title: str | None = None) -> str:
    """Return a page of HTML that shows traces forward by forward and needs no network.

    Texts of models are data: JSON without ``<``, which the page's program only ever shows as text. Its content security
    policy allows that program and nothing else.

    Args:
        panels: The traces, at least one.
        title: Title of the page. Default: one with the labels of the traces.
    """
    style = _read("viewer.css")
    script = "\n".join(_read(name) for name in _SCRIPTS)
    parts = {
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}",
        "title": html.escape(visible(title or f"Trace: {' and '.join(panel.label for panel in panels)}")),
        "style": style,
        "data": _json(panels),
        "script": script,
    }
    # Split, not replaced one by one: a part may contain the name of another.
    first, *rest = _read("page.html").split("{{")
    pieces = (piece.split("}}", 1) for piece in rest)
    return first + "".join(parts[name] + after for name, after in pieces)


def write_page(path: Path, text: str, argument: str = "path") -> None:
    """Write a page to a file, complete or not at all; its folder is created if necessary.

    Args:
        path: The file.
        text: The page.
        argument: The user's name for the file, for messages.

    Raises:
        UserError: If it cannot be written.
    """
    target = writable_path(path, argument)
    try:
        write_text(target, text)
    except OSError as error:
        raise UserError(f"{argument}: cannot write {str(path)!r} ({reason_of(error)})") from error


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(panels: Sequence[Panel]) -> str:
    numbers: dict[str, int] = {}  # by text: tokenizers may differ from panel to panel
    traces = []
    for panel in panels:
        rows = {}
        for index, recording in sorted(panel.recordings.items()):
            ids = torch.unique(recording.ids).tolist()
            texts = {token: visible(panel.texts[token]) for token in ids if token >= 0}
            of_ids = {token: numbers.setdefault(f"{token} {text}", len(numbers) + 1) for token, text in texts.items()}
            rows[index] = encode(recording, of_ids)
        traces.append({"label": visible(panel.label), "rows": rows})
    # The id keeps two tokens of one text apart: a change from one to the other is a revision.
    tokens = ["", *(key.partition(" ")[2] for key in numbers)]
    return json.dumps({"tokens": tokens, "traces": traces}, separators=(",", ":")).replace("<", "\\u003c")
