"""The views of a noise strategy in the terminal, token by token."""

from collections.abc import Iterator
from itertools import groupby

import torch
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from dmaxlit.engine.stream import MASK
from dmaxlit.errors import printable
from dmaxlit.noise import View
from dmaxlit.tokens import CleanBatch, Role

# Each mark has a style; the marks tell kinds apart where there are no colours.
_PROMPT, _CLEAN = "dim", ""
_MASKED, _SUBSTITUTED, _KEPT, _SOFT = "magenta", "red", "green", "yellow"
_SUPERVISED = "underline"


def legend() -> Text:
    """Return what the marks mean, in one line."""
    return Text.assemble(
        (MASK, _MASKED), " masked  ", ("^token", _SUBSTITUTED), " substituted  ", ("=token", _KEPT),
        " predicted, and right  ", ("~token", _SOFT), " soft  ", "{", ("token", _SUPERVISED), "} supervised  ",
        ("prompt", _PROMPT), " or fill",
    )  # fmt: skip


def print_text(console: Console, tokenizer: PreTrainedTokenizerBase, clean: CleanBatch, row: int) -> None:
    """Print the clean text of a row.

    Args:
        console: Where to print.
        tokenizer: Turns tokens into text.
        clean: The clean batch.
        row: Index of the row in the batch.
    """
    line = Text("clean  ", style="bold")
    line.append_text(_joined(_clean_tokens(tokenizer, clean, row)))
    console.print(line)


def print_view(console: Console, tokenizer: PreTrainedTokenizerBase, clean: CleanBatch, view: View, row: int) -> None:
    """Print a row of a view, with a line of counts before it.

    Args:
        console: Where to print.
        tokenizer: Turns tokens into text.
        clean: The clean batch.
        view: Its corrupted view.
        row: Index of the row in the batch.
    """
    console.print(Text(printable(f"{view.name}: {_counts(clean, view, row)}"), style="bold"))
    console.print(_joined(_view_tokens(tokenizer, clean, view, row)))


def _counts(clean: CleanBatch, view: View, row: int) -> str:
    response = clean.response[row]
    masked = _masked(view)[row] & response
    soft = torch.zeros_like(masked) if view.soft is None else view.soft.where[row]
    masked &= ~soft
    substituted = (view.ids != clean.ids)[row] & response & ~masked & ~soft
    supervised = (view.supervised & clean.in_loss)[row]
    counts = [f"{int(masked.sum())} masked", f"{int(substituted.sum())} substituted"]
    if view.soft is not None:
        counts.append(f"{int(soft.sum())} soft")
    counts.append(f"{int(supervised.sum())} supervised of {int(clean.in_loss[row].sum())}")
    level = "" if view.level is None else f"level {_range(view.level[row][response])}, "
    weight = "" if view.requires_grad else ", no loss"
    return f"{level}{', '.join(counts)}{weight}"


def _range(levels: torch.Tensor) -> str:
    if levels.numel() == 0:
        return "none"
    least, most = float(levels.min()), float(levels.max())
    return f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"


def _masked(view: View) -> torch.Tensor:
    return torch.zeros_like(view.supervised) if view.is_masked is None else view.is_masked


def _clean_tokens(tokenizer: PreTrainedTokenizerBase, clean: CleanBatch, row: int) -> Iterator[tuple[str, str, bool]]:
    for token, role in zip(clean.ids[row].tolist(), clean.roles[row].tolist(), strict=True):
        if role != Role.PAD:
            yield _text(tokenizer, token), _CLEAN if role == Role.RESPONSE else _PROMPT, False


def _view_tokens(
    tokenizer: PreTrainedTokenizerBase, clean: CleanBatch, view: View, row: int
) -> Iterator[tuple[str, str, bool]]:
    """Yield text, style and whether it is supervised, of every position of a row without the padding."""
    filled = torch.zeros_like(view.supervised) if view.model_filled is None else view.model_filled
    soft = torch.zeros_like(view.supervised) if view.soft is None else view.soft.where
    tensors = view.ids, clean.ids, clean.roles, view.supervised & clean.in_loss, _masked(view), filled, soft
    for token, before, role, supervised, is_masked, is_filled, is_soft in zip(
        *(tensor[row].tolist() for tensor in tensors), strict=True
    ):
        text = _text(tokenizer, token)
        if role == Role.PAD:
            continue
        if is_soft:
            yield f"~{text}", _SOFT, supervised
        elif is_masked:
            yield MASK, _MASKED, supervised
        elif token != before:
            yield f"^{text}", _SUBSTITUTED, supervised
        elif is_filled:
            yield f"={text}", _KEPT, supervised
        else:
            yield text, _CLEAN if role == Role.RESPONSE else _PROMPT, supervised


def _joined(tokens: Iterator[tuple[str, str, bool]]) -> Text:
    """Return tokens in one line, with braces around those that are supervised."""
    line = Text()
    for supervised, run in groupby(tokens, key=lambda token: token[2]):
        line.append("{" if supervised else "")
        for number, (text, style, _) in enumerate(run):
            line.append(" " if number else "")
            line.append(text, style=f"{style} {_SUPERVISED}".strip() if supervised else style)
        line.append("} " if supervised else " ")
    line.rstrip()
    return line


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return the text of a token, with line ends as escapes and without the space of its beginning."""
    return printable(repr(str(tokenizer.decode([token])))[1:-1]).strip() or "' '"
