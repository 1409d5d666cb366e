"""What decoding order and parallelism look like, as plain values and as Markdown tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.evaluation.blank_order import MEASURES, BlankOrder, blank_order
from dmaxlit.evaluation.bootstrap import Estimate
from dmaxlit.evaluation.order_figures import PARTS, VERDICTS, AnswerOrder, OrderRow, order_rows
from dmaxlit.evaluation.results import aligned_table

#: Figures in the order of the table's columns, with their titles.
COLUMNS = {"afp": "AFP", "tau": "tau", "tau_in_block": "tau in block"}


@dataclass(frozen=True)
class OrderReport:
    """The order of one decoder's answers to one task.

    Args:
        task: Name of the task.
        decoder: Name of the decoder, with its options.
        rows: The figures of groups of answers.
        blanks: For Sudoku, finalisation against difficulty.
    """

    task: str
    decoder: str
    rows: list[OrderRow]
    blanks: BlankOrder | None = None

    def row(self, part: str, verdict: str) -> OrderRow | None:
        """Return the row of a part and a verdict, None if there is none."""
        return next((row for row in self.rows if (row.part, row.verdict) == (part, verdict)), None)

    def shown(self) -> list[tuple[str, OrderRow]]:
        """Return the rows of table and picture, with their names: by verdict, and all answers by thirds."""
        groups = [(verdict, PARTS[0], verdict) for verdict in VERDICTS]
        groups += [(part, part, VERDICTS[0]) for part in PARTS[1:]]
        named = ((name, self.row(part, verdict)) for name, part, verdict in groups)
        return [(name, row) for name, row in named if row is not None and row.answers]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        blanks = None if self.blanks is None else self.blanks.to_dict()
        return {
            "task": self.task,
            "decoder": self.decoder,
            "rows": [row.to_dict() for row in self.rows],
            "blanks": blanks,
        }


@dataclass(frozen=True)
class OrderSource:
    """Answers of which a report is to be made.

    Args:
        task: Name of the task.
        decoder: Name of the decoder, with its options.
        orders: The answers.
        side: Number of rows of the Sudoku puzzles that they answer; None for another task.
        tokenizer: Tokenizer of the answers; without one, nothing is said of blanks.
    """

    task: str
    decoder: str
    orders: Sequence[AnswerOrder]
    side: int | None = None
    tokenizer: PreTrainedTokenizerBase | None = None

    def report(self, resamples: int = 1000, seed: int = 0) -> OrderReport:
        """Return the figures.

        Args:
            resamples: Number of bootstrap samples of the intervals.
            seed: Their seed.
        """
        blanks = None
        if self.side is not None and self.tokenizer is not None:
            blanks = blank_order(self.orders, self.side, self.tokenizer, resamples, seed)
        return OrderReport(self.task, self.decoder, order_rows(self.orders, resamples, seed), blanks)


def order_table(reports: Sequence[OrderReport]) -> str:
    """Format the figures as Markdown tables, with 95% intervals.

    A number in parentheses is that of the answers a figure is over, where it is undefined for others of the group: tau
    for those whose tokens all became final together.
    """
    cells = [
        [report.task, report.decoder, name, str(row.answers)]
        + [interval_text(row.figures[figure], of=row.answers) for figure in COLUMNS]
        for report in reports
        for name, row in report.shown()
    ]
    header = ["task", "decoder", "answers", "n", *COLUMNS.values()]
    tables = [_left_aligned(header, cells)]
    tables += [_blanks_text(report, report.blanks) for report in reports if report.blanks is not None]
    return "\n\n".join(tables)


def interval_text(estimate: Estimate, digits: int = 2, scale: float = 1.0, of: int | None = None) -> str:
    """Format a mean with its interval; ``-`` if it is undefined.

    Args:
        estimate: The mean.
        digits: Number of decimals.
        scale: Factor, for instance 100 for per cent.
        of: Number of prompts in the group. If the mean is over fewer, because it is undefined for the others, their
            number follows in parentheses.
    """
    if math.isnan(estimate.mean):
        return "-"
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high))
    some = f" ({estimate.prompts})" if of is not None and estimate.prompts < of else ""
    return f"{mean} [{low}, {high}]{some}"


def _blanks_text(report: OrderReport, blanks: BlankOrder) -> str:
    rows = [
        [row.measure, str(row.value), str(row.blanks), interval_text(row.rank), interval_text(row.right, 1, 100)]
        for row in blanks.rows
    ]
    title = f"{report.task}, {report.decoder}: {blanks.puzzles} of {blanks.answers} answers are complete grids."
    taus = ", ".join(
        f"{measure} {interval_text(blanks.correlation[measure], of=blanks.puzzles)}" for measure in MEASURES
    )
    table = _left_aligned(["difficulty", "value", "blanks", "mean rank of finalisation", "filled right %"], rows)
    return f"{title}\nTau of difficulty and finalisation (above 0: easier blanks first): {taus}.\n\n{table}"


def _left_aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table whose means are below each other, whatever follows them."""
    return aligned_table(header, rows, num_left=len(header)).rstrip("\n")
