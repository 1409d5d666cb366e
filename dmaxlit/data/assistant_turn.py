"""What a chat template puts around the response, which the model learns to write as well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.chat_template import guarded, render
from dmaxlit.data.template_content import readable_turn
from dmaxlit.tasks.prompts import conversation_of, is_plain

_CONTENT = "\ue000\ue001\ue000"  # of the private use area: a text that is nowhere else


@dataclass(frozen=True)
class AssistantTurn:
    """The text that follows a prompt in the template of the whole dialogue, in three parts.

    Args:
        before: Text between the beginning of the turn, with which the prompt ends, and the response. Usually none;
            Qwen3's template puts an empty thought there.
        content: The response, as the template writes it.
        after: The end of the turn (``<|im_end|>``, ``<end_of_turn>``, ``<|role_end|>``).
    """

    before: str
    content: str
    after: str


def assistant_turn(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Mapping[str, Any]], response: str
) -> AssistantTurn:
    """Return the assistant's turn as the chat template writes it.

    The template is asked for the dialogue with the response and with a text that can be told from it, because the
    response may contain whatever the template writes.

    Args:
        tokenizer: A tokenizer with a chat template.
        prompt: Text, or chat messages up to the turn that ``response`` is.
        response: Text of that turn.

    Raises:
        UserError: If the template refuses the dialogue.
    """
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    tools = getattr(prompt, "tools", None)

    def dialogue(content: str | None) -> str:
        spoken = turns if content is None else [*turns, {"role": "assistant", "content": content}]
        readable = guarded(lambda: [readable_turn(tokenizer, turn) for turn in spoken])
        return render(tokenizer, readable, tools=tools, add_generation_prompt=content is None)

    beginning, whole, marked = dialogue(None), dialogue(response), dialogue(_CONTENT)
    head, mark, after = marked.rpartition(_CONTENT)
    if not mark:  # the template leaves the content out, or changes it
        return AssistantTurn("", response, "")
    goes_on = head.startswith(beginning)
    before = head[len(beginning) :] if goes_on else ""
    # A template may trim the response, or take a thought out of it and write that in its own way.
    for start, text in [*([(head, before)] if goes_on else []), (beginning, "")]:
        if whole.startswith(start) and whole.endswith(after) and len(start) + len(after) <= len(whole):
            return AssistantTurn(text, whole[len(start) : len(whole) - len(after)], after)
    if not goes_on:  # the prompt begins a thought, which the whole dialogue lacks: the response goes on with it
        opening = beginning.removeprefix(head)
        if response.startswith(opening):
            response = response.removeprefix(opening)
        elif opening.strip() and response.startswith(opening.strip()):
            response = response.removeprefix(opening.strip()).lstrip()
    return AssistantTurn(before, response, after)


def response_content(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Mapping[str, Any]], text: str) -> str:
    """Return the text that a model wrote without what the chat template puts around it: the content of its turn.

    Training on the content adds the rest again.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Text or chat messages.
        text: The response's text, without special tokens.

    Raises:
        UserError: If the template refuses the dialogue.
    """
    if tokenizer.chat_template is None or is_plain(prompt):
        return text
    turn = assistant_turn(tokenizer, conversation_of(prompt), text)
    before, after = (
        str(tokenizer.decode(encode_markup(tokenizer, part), skip_special_tokens=True))
        for part in (turn.before, turn.after)
    )
    return text.removeprefix(before).removesuffix(after)


def encode_markup(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text that a chat template wrote, in which special tokens are tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids
