"""A trace in the terminal: the answer in the making, forward by forward."""

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from dmaxlit.engine import RowTrace, TokenState
from dmaxlit.metrics import count_revisions, finalization_parallelism, kendall_tau

__all__ = ["print_trace"]

_STYLES = {
    TokenState.MASKED: "dim",
    TokenState.SOFT: "yellow",
    TokenState.TOKEN: "cyan",
    TokenState.COMMITTED: "bold green",
}
_MASK = "\u2591"


def print_trace(trace: RowTrace, tokenizer: PreTrainedTokenizerBase, console: Console | None = None) -> None:
    """Print one line a forward: the open block's tokens, with what they are and whether they have just changed.

    Args:
        trace: The record of one prompt.
        tokenizer: Turns tokens into text.
        console: Where to print; default: standard output.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    legend = Text.assemble(
        (_MASK, _STYLES[TokenState.MASKED]), " masked  ", ("~soft", _STYLES[TokenState.SOFT]), "  ",
        ("token", _STYLES[TokenState.TOKEN]), "  ", ("committed", _STYLES[TokenState.COMMITTED]), "  ^changed",
    )  # fmt: skip
    console.print(legend)
    before: dict[int, int] = {}
    for number in range(len(trace.start)):
        start = int(trace.start[number])
        line = Text(f"{number + 1:4} ", style="dim")
        for place, (token, kind) in enumerate(
            zip(trace.ids[number].tolist(), trace.state[number].tolist(), strict=True)
        ):
            state = TokenState(kind)
            if state == TokenState.PROMPT:
                continue
            if state == TokenState.MASKED:
                line.append(_MASK + " ", style=_STYLES[state])
                before.pop(start + place, None)
                continue
            changed = before.get(start + place, token) != token
            mark = ("^" if changed else "") + ("~" if state == TokenState.SOFT else "")
            line.append(mark + repr(str(tokenizer.decode([token])))[1:-1], style=_STYLES[state])
            line.append(" ")
            before[start + place] = token
        console.print(line)
    console.print(_summary(trace))


def _summary(trace: RowTrace) -> str:
    finalized, (ids, _) = trace.finalized(), trace.timeline()
    revised = count_revisions(ids, ids[-1])
    forwards = ", ".join(str(count) for count in trace.forwards_per_block().tolist())
    return (
        f"{trace.num_tokens} tokens in {len(trace.start)} forwards ({forwards} by block); "
        f"AFP {finalization_parallelism(finalized):.2f}, tau {kendall_tau(finalized):.2f}; "
        f"{revised['revised']} revisions, {revised['introduced']} tokens first shown wrong"
    )
