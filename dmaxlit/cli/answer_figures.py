"""The figures of an answer, in words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmaxlit.engine import Generation


def figures(tokens: int, forwards: int) -> str:
    """Return tokens, forwards and tokens per forward."""
    return f"{tokens} tokens, {forwards} forwards, TPF {tokens / max(forwards, 1):.2f}"


def remarks(answer: "Generation") -> str:
    """Return what else a reader should know of an answer, with a comma before each; empty for an ordinary one."""
    extra = f", {answer.num_extra_blocks} more blocks read" if answer.num_extra_blocks else ""
    unfinished = "" if answer.finished else ", cut off by the budget"
    return extra + unfinished + (f", {answer.hit_step_limit} blocks not converged" if answer.hit_step_limit else "")
