"""Which turns of a conversation are learnt, and what becomes of the turns of tools."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dmaxlit.data.conversation_rows import BadConversationError
from dmaxlit.data.messages import CALLS, Conversation
from dmaxlit.data.tool_turns import first_tool_turn, tools_as_text
from dmaxlit.errors import check_choice

Turns = Literal["last", "all"]
ToolTurns = Literal["refuse", "template", "text"]

_REASONING = ("reasoning_content", "reasoning", "thinking")
_MORE_THAN_TEXT = "has messages that end in more than a text"


@dataclass(frozen=True)
class LearntTurn:
    """A turn of the assistant that is learnt.

    Args:
        context: The turns before it, which are not learnt, with the tools.
        text: Its text.
        number: Its number in the conversation, from 1.
    """

    context: Conversation
    text: str
    number: int


@dataclass(frozen=True)
class ChatTurns:
    """The turns of a conversation that are learnt.

    Args:
        turns: ``last``: the last one, which has to be the assistant's. ``all``: every turn of the assistant that
            follows a text, each as the response to the turns before it.
        tool_turns: Calls and answers of tools. ``refuse``: a conversation with any cannot be used. ``template``: they
            reach the chat template as they are, and calls are not learnt. ``text``: they become text, see
            :func:`~dmaxlit.data.tool_turns.tools_as_text`; calls are learnt like the assistant's other words.

    Raises:
        UserError: For another choice.
    """

    turns: Turns = "last"
    tool_turns: ToolTurns = "refuse"

    def __post_init__(self) -> None:
        check_choice("turns", self.turns, ("last", "all"))
        check_choice("tool_turns", self.tool_turns, ("refuse", "template", "text"))

    def learnt(self, conversation: Conversation) -> list[LearntTurn]:
        """Return the learnt turns of a conversation, in their order.

        Args:
            conversation: The conversation.

        Raises:
            BadConversationError: If there is none, one of them is more than a text, or there are turns of tools that
                are refused.
        """
        if self.tool_turns == "refuse" and (tool := first_tool_turn(conversation)) is not None:
            detail = f"turn {tool[0]} has {tool[1]}; template or text keeps it"
            raise BadConversationError("has turns of tools, which tool_turns refuses", detail)
        if self.tool_turns == "text":
            conversation = tools_as_text(conversation)
        return [self._last(conversation)] if self.turns == "last" else _all(conversation)

    @staticmethod
    def _last(conversation: Conversation) -> LearntTurn:
        *context, final = conversation
        if not context or final["role"] != "assistant":
            raise BadConversationError("has messages that do not end in an assistant turn after a prompt")
        _require_text_alone(final, _MORE_THAN_TEXT, (*CALLS, *_REASONING))
        if not final["content"].strip() or not _have_text(context):
            raise BadConversationError("has an empty prompt or response")
        return LearntTurn(Conversation(context, conversation.tools), final["content"], len(conversation))


def _all(conversation: Conversation) -> list[LearntTurn]:
    learnt = []
    for number, turn in enumerate(conversation):
        context = conversation[:number]
        has_calls = any(map(turn.get, CALLS))  # which the template writes, so that only what follows is learnt
        if turn["role"] != "assistant" or has_calls or not _have_text(context):
            continue
        _require_text_alone(turn, "has an assistant turn of more than a text", _REASONING)
        if not turn["content"].strip():
            raise BadConversationError("has an empty assistant turn", f"turn {number + 1}")
        learnt.append(LearntTurn(Conversation(context, conversation.tools), turn["content"], number + 1))
    if not learnt:
        raise BadConversationError("has messages without an assistant turn after a prompt")
    return learnt


def _require_text_alone(turn: dict[str, Any], reason: str, fields: Sequence[str]) -> None:
    if more := [name for name in fields if turn.get(name)]:
        raise BadConversationError(reason, f"got {', '.join(more)}, which is not learnt")


def _have_text(turns: Sequence[dict[str, Any]]) -> bool:
    return any(turn.get("content", "").strip() for turn in turns)
