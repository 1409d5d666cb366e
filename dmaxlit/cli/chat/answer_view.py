"""An answer that forms on the terminal: finished text above, the open blocks below it, redrawn after each forward."""

import time
from collections.abc import Iterable
from contextlib import nullcontext
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dmaxlit.cli.answer_figures import figures
from dmaxlit.cli.chat.frames import Cell, Frame
from dmaxlit.engine import TokenState
from dmaxlit.engine.stream import MASK
from dmaxlit.errors import printable

# Colours and attributes both, so that states can be told apart where there are no colours.
STYLES = {
    TokenState.MASKED: "dim",
    TokenState.SOFT: "yellow italic",
    TokenState.TOKEN: "cyan underline",
    TokenState.COMMITTED: "",
}
CHANGED = "reverse"
_SECONDS_PER_FRAME = 1 / 30  # forwards of a small model are faster than a terminal


class AnswerView:
    """Shows the frames of one answer. Without a terminal nothing is shown before the answer is complete.

    What is finished is printed for good, line by line, so that an answer may be longer than the screen.

    Args:
        console: Where to show them.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False) if self._is_live else None
        self._printed = 0  # characters of the finished text that are on the screen for good
        self._shown = -1.0  # when a frame was last shown
        self._frame: Frame | None = None

    def __enter__(self) -> "AnswerView":
        """Begin to show frames."""
        (self._live or nullcontext()).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the answer on the screen, as far as it has come."""
        if self._frame is not None:
            rest = Text(printable(self._frame.committed)[self._printed :])
            space = " " if self._frame.committed else ""
            if self._frame.generation is None:
                rest.append(f"{space}[stopped]", style="dim")
            if self._live is None:
                self._console.print(rest, soft_wrap=True)
            else:
                self._live.update(rest, refresh=True)
        if self._live is not None:
            if self._frame is None:
                self._live.transient = True
            self._live.__exit__(kind, error, trace)

    def show(self, frame: Frame) -> None:
        """Show an answer after one more forward."""
        self._frame = frame
        now = time.monotonic()
        if self._live is None or (frame.generation is None and now - self._shown < _SECONDS_PER_FRAME):
            return
        self._shown = now
        rest = self._print_full_lines(printable(frame.committed))
        status = Text(f"{figures(frame.num_tokens, frame.num_forwards)}; Ctrl-C stops", "dim")
        status.no_wrap, status.overflow = True, "ellipsis"
        self._live.update(Group(_drawn(rest, frame.cells), status), refresh=True)

    def _print_full_lines(self, committed: str) -> str:
        """Print the lines of the finished text that no further text can change; return what follows them."""
        rest = committed[self._printed :]
        *full, last = Text(rest).wrap(self._console, self._console.width) or [Text()]
        if full and rest.endswith(last.plain):
            self._console.print(Text("\n").join(full))
            self._printed += len(rest) - len(last.plain)
            return last.plain
        return rest


def _drawn(committed: str, cells: Iterable[Cell]) -> Text:
    text = Text(committed)
    for cell in cells:
        style = f"{STYLES[cell.state]} {CHANGED}" if cell.changed else STYLES[cell.state]
        text.append(printable(cell.text), style=style)
    return text


def legend() -> Text:
    """Return what the styles mean, in one line."""
    return _drawn("", [
        Cell(MASK, TokenState.MASKED), Cell(" masked ", TokenState.COMMITTED),
        Cell("soft", TokenState.SOFT), Cell(" ", TokenState.COMMITTED), Cell("token", TokenState.TOKEN),
        Cell(" ", TokenState.COMMITTED), Cell("changed", TokenState.TOKEN, changed=True),
        Cell(" settled", TokenState.COMMITTED),
    ])  # fmt: skip
