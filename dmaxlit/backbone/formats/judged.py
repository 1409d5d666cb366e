"""How a model was judged, in ``dmaxlit.json`` and on its card: the decoder with its options, and the figures."""

import re
from collections.abc import Mapping
from typing import Any

from dmaxlit.errors import UserError

_DECODER = re.compile(r"[a-z]\w{0,99}")
_LINE = re.compile(r"[^\x00-\x1f\x7f|`<>]{0,2000}")
_NUMBERS, _BOUNDS = ("accuracy", "tpf"), ("accuracy_low", "accuracy_high")


def check_decoding(value: Any, source: str) -> None:
    """Refuse what is not a registered decoder's name with plain options; None passes.

    An import path is refused: whoever wrote the file would choose the code that is imported.

    Raises:
        UserError: If so; ``source`` begins the message.
    """
    if value is None:
        return
    name = value.get("decoder") if isinstance(value, Mapping) else None
    options = value.get("options", {}) if isinstance(value, Mapping) else None
    is_plain = isinstance(options, Mapping) and all(
        key.isidentifier() and (item is None or _is_number(item) or isinstance(item, bool) or _is_line(item))
        for key, item in options.items()
    )
    if not (isinstance(name, str) and _DECODER.fullmatch(name) and is_plain):
        raise UserError(
            f"{source}: decoding: expected an object with a decoder's registered name and its options, "
            f"got {value!r:.120}"
        )


def check_figures(value: Any, source: str) -> None:
    """Refuse what is not a list of figures with a task, a command and a split of its prompts; None passes.

    Raises:
        UserError: If so; ``source`` begins the message.
    """
    if value is None:
        return
    is_whole = isinstance(value, Mapping) and all(
        _is_line(value.get(name, "")) for name in ("task", "command", "split")
    )
    rows = value.get("rows") if is_whole else None
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise UserError(f"{source}: figures: expected an object with task, command and rows, got {value!r:.120}")


def figures_table(rows: list[Mapping[str, Any]]) -> str:
    """Format figures as a Markdown table."""
    lines = ["| decoder | prompts | accuracy % [95%] | tokens per forward |", "|---|---|---|---|"]
    for row in rows:
        bounds = [row.get("accuracy_low"), row.get("accuracy_high")]
        percents = [f"{100 * bound:.1f}" for bound in bounds if bound is not None]
        interval = f" [{', '.join(percents)}]" if percents else ""
        accuracy = f"{100 * row['accuracy']:.1f}{interval}"
        lines.append(f"| {row['label']} | {row['num_examples']} | {accuracy} | {row['tpf']:.2f} |")
    return "\n".join(lines)


def decoding_title(decoding: Mapping[str, Any]) -> str:
    """Return the decoder's name with its options, ``spd tau_dec=0.5``."""
    return " ".join([decoding["decoder"], *(f"{name}={value}" for name, value in decoding.get("options", {}).items())])


def _is_row(row: Any) -> bool:
    if not isinstance(row, Mapping) or type(row.get("num_examples")) is not int:
        return False
    bounds = [row[name] for name in _BOUNDS if row.get(name) is not None]
    return _is_line(row.get("label")) and all(map(_is_number, [*(row.get(name) for name in _NUMBERS), *bounds]))


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and bool(_LINE.fullmatch(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
