"""The contexts of lm-evaluation-harness as token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.assistant_turn import assistant_turn, encode_markup
from dmaxlit.data.chat_template import render
from dmaxlit.data.encoding import encode_prompts, encode_responses
from dmaxlit.data.template_content import readable_turn
from dmaxlit.errors import UserError
from dmaxlit.tasks.prompts import TemplatedPrompt

__all__ = ["Chat", "Contexts"]


class Chat(TemplatedPrompt):
    """A chat as its template writes it, which still knows its messages.

    lm-eval passes a chat on as text, in which a special token that a message spells out cannot be told from one that
    the template writes. The messages are pickled with the text, and so are still known in lm-eval's cache of requests.
    """

    #: The text with which the response begins; it is no part of the messages.
    response_start: str = ""


class Contexts:
    """Turns the contexts of requests into token ids.

    A :class:`Chat` becomes what the model's own ``generate`` makes of its messages. No chat template is applied to any
    other text, and a special token that it spells out is text; unless chats have been rendered before, since the text
    must then be made of one.

    Args:
        tokenizer: The model's tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._has_rendered = False

    def render(self, messages: Sequence[Mapping[str, Any]], ends_in_response: bool = False) -> Chat:
        """Return the text of a chat.

        Args:
            messages: Its messages, each with ``role`` and ``content``.
            ends_in_response: Whether the last message is the beginning of the response, and no part of the prompt.

        Raises:
            UserError: If the tokenizer has no chat template, or it refuses the chat.
        """
        self.require_template()
        prompt = [dict(message) for message in (messages[:-1] if ends_in_response else messages)]
        turns = [readable_turn(self._tokenizer, turn) for turn in prompt]
        text = render(self._tokenizer, turns, tools=None, add_generation_prompt=True)
        start = str(messages[-1]["content"]) if ends_in_response else ""
        if start:
            turn = assistant_turn(self._tokenizer, prompt, start)
            text += turn.before + turn.content
        chat = Chat(text, prompt)
        chat.response_start = start
        self._has_rendered = True
        return chat

    def require_template(self) -> None:
        """Refuse a tokenizer without a chat template.

        Raises:
            UserError: If it has none.
        """
        if self._tokenizer.chat_template is None:
            raise UserError("apply_chat_template: expected a model with a chat template, got one without")

    def encode(self, context: str) -> list[int]:
        """Return the token ids of a context.

        Raises:
            UserError: If the tokenizer cannot tell a special token in a text from the token itself.
        """
        if isinstance(context, Chat):
            return encode_prompts(self._tokenizer, [context])[0] + self._encode_start(context)
        if self._has_rendered:
            return encode_markup(self._tokenizer, context)
        return encode_prompts(self._tokenizer, [TemplatedPrompt(context)])[0]

    def _encode_start(self, chat: Chat) -> list[int]:
        if not chat.response_start:
            return []
        turn = assistant_turn(self._tokenizer, chat.messages or [], chat.response_start)
        return encode_markup(self._tokenizer, turn.before) + encode_responses(self._tokenizer, [turn.content])[0]
