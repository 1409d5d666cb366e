"""A table under a title, for the terminal and for notebooks."""

from collections.abc import Sequence
from dataclasses import dataclass

from dmaxlit.evaluation.results import aligned_table
from dmaxlit.viewer.notebook import grid


@dataclass(frozen=True)
class Section:
    """A table with what is said above it.

    Args:
        title: Its title.
        note: A line below the title; empty for none.
        header: Titles of the columns.
        rows: Their cells.
        num_left: Number of columns, the first ones, that are aligned to the left.
    """

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_left: int

    def markdown(self) -> str:
        """Return it as Markdown that is legible as plain text."""
        rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in self.rows]
        above = [f"## {self.title}", *([self.note] if self.note else [])]
        return "\n\n".join([*above, aligned_table(self.header, rows, self.num_left)])

    def html(self) -> str:
        """Return it as HTML, in which no text is markup."""
        return grid(self.header, self.rows, self.num_left, f"{self.title}: {self.note}" if self.note else self.title)
