"""The result of decoding a set of examples, as a value and as a row of a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from dmaxlit.metrics import wilson_interval
from dmaxlit.viewer.notebook import table

# Names in results that release 0.1 wrote, as in checkpoints of ``ComparisonReport``.
_NAMES_SINCE_0_1 = {"capped": "hit_step_limit", "capped_blocks": "blocks_at_step_limit"}


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """The result of one decoder on one set of examples.

    Args:
        decoder: Registered name.
        options: The decoder's options.
        num_examples: Decoded prompts.
        accuracy: Share of answers that the checker accepts.
        tpf: Tokens per forward, see :class:`~dmaxlit.metrics.TokensPerForward`.
        tpf_published: Tokens per forward by DMax's convention.
        tpf_low: Lower bound of the 95% interval of ``tpf``; see :class:`~dmaxlit.metrics.TokensPerForwardInterval`. nan
            in results of releases that did not compute it.
        tpf_high: Upper bound.
        tpf_ceiling: TPF of these answers at one forward per block.
        forwards_per_answer: Mean over the answers.
        tokens_per_second: Per device, see :class:`~dmaxlit.metrics.TokensPerSecond`.
        finished: Share of answers that end with EOS or a stop text.
        blocks_at_step_limit: Blocks closed at the step limit, before they had converged.
        blocks: Blocks of all answers.
        seconds: Time spent decoding, summed over devices.
    """

    decoder: str
    options: dict[str, Any]
    num_examples: int
    accuracy: float
    tpf: float
    tpf_published: float
    tpf_ceiling: float
    forwards_per_answer: float
    tokens_per_second: float
    finished: float
    blocks_at_step_limit: int
    blocks: int
    seconds: float
    tpf_low: float = math.nan
    tpf_high: float = math.nan

    @property
    def tpf_ceiling_two(self) -> float:
        """TPF of these answers at two forwards per block; see :class:`~dmaxlit.metrics.TokensPerBlock` for its use."""
        return self.tpf_ceiling / 2

    @property
    def hit_step_limit(self) -> float:
        """Share of blocks closed at the step limit, before they had converged."""
        return self.blocks_at_step_limit / self.blocks if self.blocks else math.nan

    def accuracy_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the Wilson interval (low, high) of the accuracy; (0, 1) without examples."""
        right = round(self.accuracy * self.num_examples) if self.num_examples else 0
        return wilson_interval(right, self.num_examples, confidence)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the figures by their names, the intervals beside them."""
        low, high = self.accuracy_interval()
        values = {**asdict(self), "accuracy": f"{self.accuracy:.4g} [{low:.4g}, {high:.4g}]"}
        return table((name.replace("_", " "), value) for name, value in values.items())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, nan as None, with the 95% interval and the ceiling at two forwards a block."""
        low, high = self.accuracy_interval()
        values = {**asdict(self), "accuracy_low": low, "accuracy_high": high, "tpf_ceiling_two": self.tpf_ceiling_two}
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, payload: dict[str, Any]) -> DecodeResult:
        """Make the result from the plain values of :meth:`to_dict`, also those written by release 0.1."""
        payload = with_current_names(payload)
        values: dict[str, Any] = {field.name: payload[field.name] for field in fields(cls) if field.default is MISSING}
        values |= {name: payload.get(name) for name in ("tpf_low", "tpf_high")}
        values.update({key: math.nan for key, value in values.items() if value is None})
        return cls(**values)


def with_current_names(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a result under their current names, which differ from those of release 0.1."""
    return {_NAMES_SINCE_0_1.get(name, name): value for name, value in payload.items()}


#: Titles of the columns of :func:`format_table`.
RESULT_HEADER = ("", "accuracy % [95%]", "TPF", "ceiling 1 / 2", "forwards", "tokens/s", "finished %", "hit step limit")
#: What the columns mean.
TABLE_LEGEND = (
    "accuracy: right answers, with Wilson's 95% interval · TPF: tokens per forward, EOS included · ceiling 1 / 2: TPF "
    "at one and at two forwards per block (with a window of 1 the second bounds decoders that always confirm a block "
    "in a further forward; spd by confidence does not) · forwards: mean per answer · tokens/s: of one device · "
    "finished: answers that end with EOS or a stop text · hit step limit: blocks closed before they had converged"
)


def format_table(rows: Sequence[tuple[str, DecodeResult]]) -> str:
    """Format results as a Markdown table, aligned to be legible as plain text too.

    Args:
        rows: Name and result of each row.
    """
    return aligned_table(RESULT_HEADER, [[name, *result_cells(result)] for name, result in rows])


def aligned_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """Format a Markdown table whose columns are as wide as their widest cell.

    Args:
        header: Titles of the columns.
        rows: Their cells.
        num_left: Number of columns, the first ones, that are aligned to the left; the others are to the right.
    """
    widths = [max(3, *(len(row[column]) for row in (header, *rows))) for column in range(len(header))]
    rule = ["-" * width if column < num_left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = []
    for row in [header, rule, *rows]:
        sized = enumerate(zip(row, widths, strict=True))
        cells = [cell.ljust(w) if column < num_left else cell.rjust(w) for column, (cell, w) in sized]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same columns, at least one, as CSV under a line of the columns' names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def result_cells(result: DecodeResult) -> list[str]:
    """Return the cells of a result, under the titles of :data:`RESULT_HEADER` after the first."""
    low, high = result.accuracy_interval()
    return [
        f"{100 * result.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        f"{result.tpf:.2f}",
        f"{result.tpf_ceiling:.1f} / {result.tpf_ceiling_two:.1f}",
        f"{result.forwards_per_answer:.1f}",
        f"{result.tokens_per_second:.0f}",
        f"{100 * result.finished:.1f}",
        f"{result.blocks_at_step_limit}",
    ]
