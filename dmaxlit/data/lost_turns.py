"""What the tokens of a conversation do not show of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.assistant_turn import assistant_turn
from dmaxlit.data.control_tokens import template_text
from dmaxlit.data.corpus_reader import Row
from dmaxlit.errors import DMaxWarning, PromptError, UserError
from dmaxlit.tasks.prompts import conversation_of, is_plain

_THOUGHT = "</think>"
_WITHOUT_TEMPLATE = "the tokenizer has no chat template, so roles are lost and turns are joined by line breaks"


def rows_with_warnings(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, warnings: list[str] | None = None
) -> Iterator[Row]:
    """Yield the rows of a corpus; warn once of every kind of loss, naming the first row.

    Args:
        rows: The rows.
        tokenizer: The tokenizer that will encode them.
        warnings: Receives the text of each warning, for who does not read the rows.
    """
    noted: set[str] = set()
    asked_of_thoughts = False  # one row tells what the template does with them
    for row in rows:
        loss = "" if row.prompt is None else _loss(tokenizer, row.prompt)
        if not loss and not asked_of_thoughts and row.prompt is not None and _THOUGHT in row.response:
            asked_of_thoughts, loss = True, _loss_of_thought(tokenizer, row.prompt, row.response)
        if loss and loss not in noted:
            noted.add(loss)
            warning = f"{row.location}, and perhaps others: {loss}; data.chat_template takes a .jinja file"
            rank_zero_warn(warning, category=DMaxWarning)
            if warnings is not None:
                warnings.append(warning)
        yield row


def warn_of_losses(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Sequence[Mapping[str, Any]]]) -> None:
    """Warn once of every kind of loss among prompts.

    Args:
        tokenizer: The tokenizer that will encode them.
        prompts: The prompts.
    """
    for loss in sorted({_loss(tokenizer, prompt) for prompt in prompts} - {""}):
        rank_zero_warn(f"prompts: {loss}", category=DMaxWarning)


def check_roles(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Sequence[Mapping[str, Any]]]) -> None:
    """Refuse conversations of which a tokenizer without a chat template would only keep the texts.

    Args:
        tokenizer: The tokenizer that will encode them.
        prompts: The prompts.

    Raises:
        PromptError: For the first such prompt.
    """
    if tokenizer.chat_template is None:
        for index, prompt in enumerate(prompts):
            if _loss(tokenizer, prompt):
                raise PromptError(index, "expected a model with a chat template for a conversation, got one without")


def check_losses(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Sequence[Mapping[str, Any]]]) -> None:
    """Refuse conversations of which anything would be lost, for who cannot see a warning.

    Args:
        tokenizer: The tokenizer that will encode them.
        prompts: The prompts.

    Raises:
        PromptError: For the first such prompt.
    """
    check_roles(tokenizer, prompts)
    for index, prompt in enumerate(prompts):
        if loss := _loss(tokenizer, prompt):
            raise PromptError(index, f"expected a conversation that is encoded whole, got one that is not: {loss}")


def _loss(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Return what a prompt loses when it is encoded; empty for nothing."""
    if isinstance(prompt, str):
        return ""
    fields = [name for name in ("tool_calls", "function_call") if any(turn.get(name) for turn in prompt)]
    fields += ["tools"] if getattr(prompt, "tools", None) else []
    if tokenizer.chat_template is None:
        is_one_text = len(prompt) == 1 and prompt[0]["role"] == "user" and not fields
        return "" if is_one_text else _WITHOUT_TEMPLATE
    lost = [name for name in fields if name not in template_text(tokenizer)]
    return f"the chat template does not write {' and '.join(lost)}, which are lost" if lost else ""


def _loss_of_thought(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Mapping[str, Any]], response: str
) -> str:
    """Return what a response with a thought loses when it is encoded; empty for nothing."""
    if tokenizer.chat_template is None or is_plain(prompt):
        return ""
    with suppress(UserError):  # for who encodes the row
        if _THOUGHT not in assistant_turn(tokenizer, conversation_of(prompt), response).content:
            return f"the chat template does not write what the response has before {_THOUGHT}, which is lost"
    return ""
