"""The form in which a chat template reads the content of a message: a text, or a list of parts."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.control_tokens import template_text
from dmaxlit.data.messages import text_of

_MARK = "\ue000\ue002\ue000"  # of the private use area: a text that is nowhere else
# The roles of the shortest conversation in which each stands; the user's comes first, since the others need it.
_CONVERSATIONS = {"user": ("user",), "system": ("system", "user"), "assistant": ("user", "assistant")}

_known: dict[str, frozenset[str]] = {}


def plain_turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without keys that are null, and with the joined text of a list of text parts."""
    text = text_of(turn.get("content"))
    return {key: value for key, value in turn.items() if value is not None} | (
        {} if text is None else {"content": text}
    )


def readable_turn(tokenizer: PreTrainedTokenizerBase, turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as :func:`plain_turn`, with a list of one text part if the template reads only such lists.

    Templates of models that also take images often do, and write nothing, or raise, for a text.

    Args:
        tokenizer: A tokenizer with a chat template.
        turn: The message.
    """
    plain = plain_turn(turn)
    role = turn.get("role")
    in_parts = _roles_in_parts(tokenizer)
    if (role if role in _CONVERSATIONS else "user") in in_parts and isinstance(plain.get("content"), str):
        return plain | {"content": _parts(plain["content"])}
    return plain


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _roles_in_parts(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the roles whose content is written if it is a list of parts, but not if it is a text."""
    key = template_text(tokenizer)
    if key not in _known:
        found: set[str] = set()
        for role in _CONVERSATIONS:
            if not _writes(tokenizer, role, found) and _writes(tokenizer, role, found | {role}):
                found.add(role)
        _known[key] = frozenset(found)
    return _known[key]


def _writes(tokenizer: PreTrainedTokenizerBase, role: str, in_parts: set[str]) -> bool:
    turns: list[Any] = []
    for speaker in _CONVERSATIONS[role]:
        text = _MARK if speaker == role else "a"
        turns.append({"role": speaker, "content": _parts(text) if speaker in in_parts else text})
    try:
        return _MARK in str(tokenizer.apply_chat_template(turns, tokenize=False))
    except MemoryError:
        raise
    except Exception:  # a chat template is a program, and may raise anything
        return False
