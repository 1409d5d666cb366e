"""A trace in the terminal: one line per forward and open block."""

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from dmaxlit.engine import RowTrace, TokenState
from dmaxlit.engine.stream import MASK
from dmaxlit.errors import printable
from dmaxlit.metrics import count_revisions, finalization_parallelism, kendall_tau

_STYLES = {
    TokenState.MASKED: "dim",
    TokenState.SOFT: "yellow",
    TokenState.TOKEN: "cyan",
    TokenState.COMMITTED: "bold green",
}


def print_trace(trace: RowTrace, tokenizer: PreTrainedTokenizerBase, console: Console | None = None) -> None:
    """Print a line per forward and open block: its tokens, styled by state, with a mark where they changed.

    Args:
        trace: The record of one prompt.
        tokenizer: Turns tokens into text.
        console: Where to print; default: standard output.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    legend = Text.assemble(
        (MASK, _STYLES[TokenState.MASKED]), " masked  ", ("~soft", _STYLES[TokenState.SOFT]), "  ",
        ("token", _STYLES[TokenState.TOKEN]), "  ", ("committed", _STYLES[TokenState.COMMITTED]), "  ^changed",
    )  # fmt: skip
    console.print(legend)
    previous: dict[int, int] = {}  # token of each position after the forward before
    for entry, (forward, start) in enumerate(
        zip(trace.forward_of_entries().tolist(), trace.start.tolist(), strict=True)
    ):
        line = Text(f"{forward + 1:4} ", style="dim")
        cells = zip(trace.ids[entry].tolist(), trace.state[entry].tolist(), strict=True)
        for position, (token, value) in enumerate(cells, start=start):
            state = TokenState(value)
            if state == TokenState.PROMPT:
                continue
            if state == TokenState.MASKED:
                line.append(MASK + " ", style=_STYLES[state])
                previous.pop(position, None)
                continue
            changed = previous.get(position, token) != token
            mark = ("^" if changed else "") + ("~" if state == TokenState.SOFT else "")
            text = printable(repr(str(tokenizer.decode([token])))[1:-1])
            line.append(mark + text, style=_STYLES[state])
            line.append(" ")
            previous[position] = token
        console.print(line)
    console.print(summary(trace))


def summary(trace: RowTrace) -> str:
    """Return a line of figures: forwards by block, in which order tokens became final, and revisions."""
    ids, _ = trace.timeline()
    is_token = ids[-1] >= 0  # of a stopped response some are masks
    counts, finalized = count_revisions(ids[:, is_token], ids[-1, is_token]), trace.finalized(ids)[is_token]
    forwards = ", ".join(str(count) for count in trace.forwards_per_block().tolist())
    return (
        f"{len(finalized)} tokens in {trace.num_forwards} forwards ({forwards} by block); "
        f"AFP {finalization_parallelism(finalized):.2f}, tau {kendall_tau(finalized):.2f}; "
        f"{counts['revised']} revisions, {counts['introduced']} tokens first shown wrong"
    )
