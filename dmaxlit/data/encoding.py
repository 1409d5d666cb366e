"""Encoding of text as token ids with a role for every position."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.assistant_turn import AssistantTurn, assistant_turn, encode_markup
from dmaxlit.data.chat_template import encode_chats
from dmaxlit.data.control_tokens import check_plain_text
from dmaxlit.data.messages import text_of
from dmaxlit.errors import UserError
from dmaxlit.tasks.prompts import conversation_of, is_plain
from dmaxlit.tokens import Role

Prompt = str | list[dict[str, Any]]
EosFill = Literal["block"] | int


@dataclass(frozen=True)
class EncodedPair:
    """A prompt with its response, EOS and EOS fill.

    Args:
        ids: Token ids.
        roles: The :class:`~dmaxlit.tokens.Role` of each position; supervised EOS tokens are part of the response.
            Whole blocks.
    """

    ids: list[int]
    roles: list[int]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the token ids of each prompt.

    With a chat template, these are the template's, up to the beginning of the assistant's turn. Without one, or for a
    :class:`~dmaxlit.tasks.prompts.TemplatedPrompt` without messages, they are the text's, after the BOS token if the
    tokenizer adds one. A special token spelled out in the text is ordinary text.

    Args:
        tokenizer: The model's tokenizer.
        prompts: Texts, or lists of chat messages (``role``, ``content``).

    Raises:
        UserError: If the chat template refuses a conversation, or the tokenizer cannot tell a special token in a text
            from the token itself.
    """
    plain = [tokenizer.chat_template is None or is_plain(prompt) for prompt in prompts]
    texts = iter(_encode_texts(tokenizer, list(compress(prompts, plain))))
    chats = iter(_encode_chats(tokenizer, [prompt for prompt, text in zip(prompts, plain, strict=True) if not text]))
    return [next(texts if text else chats) for text in plain]


def _encode_chats(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    return encode_chats(tokenizer, [conversation_of(prompt) for prompt in prompts]) if prompts else []


def _encode_texts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    if not prompts:
        return []
    texts = [prompt if isinstance(prompt, str) else _joined_turns(prompt) for prompt in prompts]
    encoded: list[list[int]] = tokenizer(texts, split_special_tokens=True)["input_ids"]
    check_plain_text(tokenizer, encoded, around=tokenizer("")["input_ids"])
    return [ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids for ids in encoded]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Return the token ids of one prompt; see :func:`encode_prompts`."""
    return encode_prompts(tokenizer, [prompt])[0]


def _joined_turns(turns: list[dict[str, Any]]) -> str:
    texts = [text_of(turn.get("content")) for turn in turns]
    return "\n".join(text for text in texts if text is not None)


def encode_responses(tokenizer: PreTrainedTokenizerBase, responses: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each response, without EOS; a special token spelled out in the text is ordinary text.

    Raises:
        UserError: If the tokenizer cannot tell such a text from the token itself.
    """
    if not responses:
        return []
    ids: list[list[int]] = tokenizer(list(responses), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    check_plain_text(tokenizer, ids)
    return ids


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Return, for each plain text, what stands before it (BOS, if the tokenizer adds one) and its own token ids.

    No chat template is applied, and a special token spelled out in a text is ordinary text.

    Raises:
        UserError: If the tokenizer cannot tell such a text from the token itself.
    """
    bos = tokenizer.bos_token_id
    before = [bos] if texts and bos is not None and bos in tokenizer("")["input_ids"] else []
    return [(before, ids) for ids in encode_responses(tokenizer, texts)]


def encode_turns(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], responses: Sequence[str]
) -> list[list[int]]:
    """Return the token ids that follow each prompt: its response, and what the chat template puts around that.

    EOS is left out at the end, where a template may write it too.

    Args:
        tokenizer: The model's tokenizer.
        prompts: Texts or chat messages.
        responses: The response to each.

    Raises:
        UserError: If the chat template refuses a dialogue.
    """
    turns = [
        AssistantTurn("", response, "")
        if tokenizer.chat_template is None or is_plain(prompt)
        else assistant_turn(tokenizer, conversation_of(prompt), response)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    contents = encode_responses(tokenizer, [turn.content for turn in turns])
    encoded = []
    for turn, content in zip(turns, contents, strict=True):
        end = encode_markup(tokenizer, turn.after)
        while end and end[-1] == tokenizer.eos_token_id:
            end.pop()
        encoded.append(encode_markup(tokenizer, turn.before) + content + end)
    return encoded


def check_eos_fill(eos_fill: EosFill) -> None:
    """Refuse an ``eos_fill`` that is neither ``"block"`` nor a count of at least one.

    Raises:
        UserError: If so.
    """
    if eos_fill != "block" and (isinstance(eos_fill, (str, bool)) or eos_fill < 1):
        raise UserError(f"eos_fill: expected 'block' or a count of at least 1, got {eos_fill!r}")


def eos_count(length: int, block_length: int, eos_fill: EosFill) -> int:
    """Return how many supervised EOS tokens follow the first ``length`` tokens.

    ``"block"`` fills up to the end of the block of the first EOS.
    """
    return block_length - length % block_length if eos_fill == "block" else int(eos_fill)


def whole_blocks(length: int, block_length: int) -> int:
    """Return the number of tokens of the blocks that ``length`` tokens need."""
    return -(-length // block_length) * block_length


def encode_pair(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    response: str,
    block_length: int,
    eos_fill: EosFill = "block",
) -> EncodedPair:
    """Encode a prompt with its response, ended by EOS.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Text, or chat messages up to the turn that ``response`` is.
        response: The final turn, which is what the model learns, with what the chat template puts around it.
        block_length: Length of the blocks of the grid, which begins at position 0.
        eos_fill: Supervised EOS tokens. ``"block"``: the first EOS and the rest of its block; a count: that many. EOS
            without supervision fills the rest of the last block.

    Raises:
        UserError: If ``eos_fill`` is neither.
    """
    check_eos_fill(eos_fill)
    prompt_ids = encode_prompt(tokenizer, prompt)
    response_ids = encode_turns(tokenizer, [prompt], [response])[0]
    num_eos = eos_count(len(prompt_ids) + len(response_ids), block_length, eos_fill)
    length = len(prompt_ids) + len(response_ids) + num_eos
    rest = whole_blocks(length, block_length) - length
    ids = prompt_ids + response_ids + [tokenizer.eos_token_id] * (num_eos + rest)
    num_response = len(response_ids) + num_eos
    roles = [Role.PROMPT] * len(prompt_ids) + [Role.RESPONSE] * num_response + [Role.FILL] * rest
    return EncodedPair(ids, [int(role) for role in roles])
