"""The progress bar of one cell of an evaluation."""

from typing import Any

from dmaxlit.bars import make_bar
from dmaxlit.errors import printable
from dmaxlit.evaluation.sample_files import Stored

# The bar comes last: where a terminal is narrow it is what is cut off.
_FORMAT = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}] {bar}"


class RunningFigures:
    """A progress bar with the accuracy and TPF so far.

    Args:
        stored: What is done already, by all processes.
        num_more: Prompts to come.
        title: Title of the bar; None for no bar.
    """

    def __init__(self, stored: Stored, num_more: int, title: str | None) -> None:
        done = len(stored.rows)
        shown = None if title is None else printable(title)  # labels may come from a file
        self._bar = make_bar(
            total=done + num_more, initial=done, desc=shown, unit="prompt", disable=title is None, bar_format=_FORMAT
        )
        self._correct = self._prompts = self._tokens = self._forwards = 0
        for row in stored.rows.values():
            self._add(row)

    def __enter__(self) -> "RunningFigures":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def count(self, row: dict[str, Any]) -> None:
        """Show one more row."""
        self._add(row)
        figures = f"accuracy {100 * self._correct / self._prompts:.1f}%, TPF {self._tokens / self._forwards:.2f}"
        self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update()

    def _add(self, row: dict[str, Any]) -> None:
        self._prompts += 1
        self._correct += row["correct"]
        self._tokens += row["num_tokens"]
        self._forwards += row["num_forwards"]
