"""What a decoder did on a set of examples, as a value and as a row of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from dmaxlit.metrics import wilson_interval

__all__ = ["DecodeResult", "format_table"]


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """What one decoder did on one set of examples.

    Args:
        decoder: Registered name.
        options: Options it ran with.
        num_examples: Prompts answered.
        accuracy: Share of answers that the checker accepts.
        tpf: Tokens per forward, see :class:`~dmaxlit.metrics.TokensPerForward`.
        tpf_published: The same by DMax's convention.
        tpf_ceiling: TPF of these answers at one forward a block.
        forwards_per_answer: Mean over the answers.
        tokens_per_second: Per device, see :class:`~dmaxlit.metrics.TokensPerSecond`.
        finished: Share of answers that end in EOS.
        blocks_at_step_limit: Blocks that were closed before they had converged.
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

    @property
    def tpf_ceiling_two(self) -> float:
        """TPF of these answers at two forwards a block."""
        return self.tpf_ceiling / 2

    @property
    def hit_step_limit(self) -> float:
        """Share of blocks that were closed before they had converged."""
        return self.blocks_at_step_limit / self.blocks if self.blocks else math.nan

    def accuracy_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson interval of the accuracy, (low, high); (0, 1) without examples."""
        right = round(self.accuracy * self.num_examples) if self.num_examples else 0
        return wilson_interval(right, self.num_examples, confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, nan as None; with the 95% interval and the ceiling at two forwards a block."""
        low, high = self.accuracy_interval()
        told = {**asdict(self), "accuracy_low": low, "accuracy_high": high, "tpf_ceiling_two": self.tpf_ceiling_two}
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in told.items()}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> DecodeResult:
        """The result that :meth:`to_dict` described."""
        values: dict[str, Any] = {each.name: told[each.name] for each in fields(cls)}
        values.update({key: math.nan for key, value in values.items() if value is None})
        return cls(**values)


def format_table(rows: Sequence[tuple[str, DecodeResult]]) -> str:
    """A Markdown table, aligned to be read as plain text too.

    Args:
        rows: Name and result of each row.
    """
    header = ["", "accuracy % [95%]", "TPF", "ceiling 1 / 2", "forwards", "tokens/s", "finished %", "hit_step_limit"]
    table = [header] + [[name, *_cells(result)] for name, result in rows]
    widths = [max(3, *(len(row[column]) for row in table)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [header, rule, *table[1:]]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def _cells(result: DecodeResult) -> list[str]:
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
