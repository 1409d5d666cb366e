"""Texts that end a response."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from dmaxlit.engine.response_text import ResponseText
from dmaxlit.errors import UserError
from dmaxlit.tasks.unicode import check_text


class StopStrings:
    """Finds the first of several texts in a response, even where it spans tokens or blocks.

    Special tokens are no part of a response's text. A stop text that is one, or contains one, is searched where they
    are still visible.

    Args:
        tokenizer: Turns tokens into text.
        strings: The texts, none of them empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        if isinstance(strings, str) or not all(isinstance(text, str) and text for text in strings):
            raise UserError(f"stop: expected a list of texts, none of them empty, got {strings!r}")
        check_text("stop", list(strings))
        self._text = ResponseText(tokenizer)
        special = self._text.special_ids
        self._strings = tuple(strings)
        self._ids = frozenset(special[string] for string in strings if string in special)
        self._with_special = tuple(
            string for string in strings if string not in special and any(token in string for token in special)
        )

    def __call__(self, token_ids: list[int]) -> int | None:
        """Return the number of tokens up to and including the one that completes a stop string, or None."""
        first = None
        if self._is_in(token_ids):
            lengths = range(1, len(token_ids) + 1)
            first = lengths[bisect_left(lengths, True, key=lambda length: self._is_in(token_ids[:length]))]
        # Bytes after a stop string may hide it: that of an incomplete character makes others of its run unreadable.
        for begin, end in self._text.byte_runs(token_ids[:first]):
            if first is not None or "\ufffd" in self._text(token_ids[begin:end]):
                for length in range(begin + 1, end + 1):
                    if self._is_in(token_ids[:length]):
                        return length
        return first

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of a response up to the first stop string, or all of it."""
        text = self._text(token_ids)
        ends = [text[:start] for start in (text.find(string) for string in self._strings) if start >= 0]
        ends += [self._text(token_ids[:index]) for index, token in enumerate(token_ids) if token in self._ids][:1]
        ends += self._before(token_ids, lambda string, text: text.find(string))
        return _common_beginning([text, *ends])

    def settled(self, token_ids: Sequence[int]) -> str:
        """Return the text that stays whatever tokens follow: what may begin a stop string is no part of it."""
        text = self._text.settled(token_ids)
        starts = (_possible_start(string, text) for string in self._strings)
        ends = [text[:start] for start in starts if start >= 0]
        ends += self._before(token_ids, _possible_start)
        return _common_beginning([text, *ends])

    def _is_in(self, token_ids: Sequence[int]) -> bool:
        if not self._ids.isdisjoint(token_ids):
            return True
        text = self._text(token_ids)
        if any(string in text for string in self._strings):
            return True
        if not self._with_special:
            return False
        text = self._text(token_ids, with_special=True)
        return any(string in text for string in self._with_special)

    def _before(self, token_ids: Sequence[int], find: Callable[[str, str], int]) -> list[str]:
        """Return the text before each stop string with special tokens, found where these are visible.

        Args:
            token_ids: The tokens.
            find: Returns where a string begins in a text, or -1.
        """
        if not self._with_special:
            return []
        visible = self._text(token_ids, with_special=True)
        starts = [start for start in (find(string, visible) for string in self._with_special) if start >= 0]
        return [self._without_special(token_ids, visible, start) for start in starts]

    def _without_special(self, token_ids: Sequence[int], visible: str, end: int) -> str:
        """Return the first ``end`` characters of a text without those of special tokens."""
        lengths = range(len(token_ids) + 1)
        is_beyond = lambda count: len(self._text(token_ids[:count], with_special=True)) > end  # noqa: E731
        count = bisect_left(lengths, True, key=is_beyond) - 1
        text = self._text(token_ids[:count])
        if count == len(token_ids) or self._text.is_special(token_ids[count]):
            return text
        return text + visible[len(self._text(token_ids[:count], with_special=True)) : end]


def _possible_start(string: str, text: str) -> int:
    """Return where the longest end of a text that a string begins with starts, or -1."""
    starts = range(max(len(text) - len(string) + 1, 0), len(text))
    return next((start for start in starts if string.startswith(text[start:])), -1)


def _common_beginning(texts: Sequence[str]) -> str:
    """Return the longest text that all of several begin with."""
    shortest = min(texts, key=len)
    lengths = (length for length, letter in enumerate(shortest) if any(text[length] != letter for text in texts))
    return shortest[: next(lengths, len(shortest))]
