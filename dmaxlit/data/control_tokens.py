"""The tokens that structure a sequence, found in texts that are data."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.errors import UserError

# They write for the model: a non-special token that the template writes, such as <think>, is one in their turns too.
_AUTHORS = ("system", "developer", "assistant")


@dataclass(frozen=True)
class ControlTokens:
    """Patterns that find the text of tokens which structure a sequence.

    Args:
        special: The special tokens.
        written: The special tokens, and further added tokens that the chat template writes.
    """

    special: re.Pattern[str]
    written: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "ControlTokens":
        """Read the tokens off a tokenizer and its chat template."""
        template = template_text(tokenizer)
        added = [token for token in tokenizer.added_tokens_decoder.values() if not token.content.isspace()]
        special = [token.content for token in added if token.special]
        return cls(_any_of(special), _any_of({*special, *(t.content for t in added if t.content in template)}))

    def are_in(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> bool:
        """Return whether data spell one out: a message, whoever wrote it, or the description of a tool.

        Raises:
            UserError: If the name of a field does, which no template can tell from its text.
        """
        for name in _names([*messages, tools]):
            if self.written.search(name):
                raise UserError(f"messages: expected names of fields without special tokens, got {name!r}")
        return any(self.special.search(text) for text in _texts([*messages, tools])) or any(
            self.written.search(text)
            for message in messages
            if message.get("role") not in _AUTHORS
            for text in _texts(message)
        )


def check_plain_text(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]], around: Sequence[int] = ()
) -> None:
    """Refuse a text of which a tokenizer makes special ids though it was asked not to.

    Word-level and unigram tokenizers do if their special tokens are words of the vocabulary too.

    Args:
        tokenizer: The tokenizer.
        ids: Token ids of each text, encoded with ``split_special_tokens``.
        around: The ids among them that the tokenizer puts around any text.

    Raises:
        UserError: For the first such text.
    """
    special = {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special and not token.content.isspace() and index != tokenizer.unk_token_id
    }
    for tokens in ids:
        for index in sorted(special.keys() & set(tokens)):
            if tokens.count(index) > around.count(index):
                raise UserError(f"tokenizer: expected {special[index]!r} in a text to be text, got its token {index}")


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template, or all of several, as one text; empty for none."""
    templates = tokenizer.chat_template
    return "\n".join(templates.values()) if isinstance(templates, dict) else templates or ""


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # which never matches


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from map(str, value)
    if isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _names(item)
