"""How a model was judged, in ``dmaxlit.json`` and on its card: the decoder with its options, and the figures."""

import re
from collections.abc import Mapping
from typing import Any

from dmaxlit.errors import UserError

_DECODER = re.compile(r"[a-z]\w{0,99}")
_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff|`<>]{0,2000}")
_NUMBERS, _BOUNDS = ("accuracy", "tpf"), ("accuracy_low", "accuracy_high")


def is_line(value: Any) -> bool:
    """Return whether a value is a text in one line that a card can show: at most 2,000 characters without ``|`<>``."""
    return isinstance(value, str) and bool(_LINE.fullmatch(value))


def can_hold(decoder: Any, options: Any) -> bool:
    """Return whether ``dmaxlit.json`` can hold a decoder: by a name, with plain options.

    An option may be a mapping of plain ones, as that of the decoder which another one commits with.
    """
    return isinstance(decoder, str) and bool(_DECODER.fullmatch(decoder)) and _are_plain(options)


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
    if not can_hold(name, options):
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
    is_whole = isinstance(value, Mapping) and all(is_line(value.get(name, "")) for name in ("task", "command", "split"))
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
    return is_line(row.get("label")) and all(map(_is_number, [*(row.get(name) for name in _NUMBERS), *bounds]))


def _are_plain(options: Any, may_nest: bool = True) -> bool:
    """Return whether options are numbers, lines, true, false or null, or mappings of these."""
    return isinstance(options, Mapping) and all(
        isinstance(name, str)
        and name.isidentifier()
        and (
            value is None
            or isinstance(value, (bool, int, float))
            or is_line(value)
            or (may_nest and _are_plain(value, False))
        )
        for name, value in options.items()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
