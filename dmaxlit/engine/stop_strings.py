"""Texts that end a response."""

from bisect import bisect_left
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from dmaxlit.errors import UserError


class StopStrings:
    """Finds the first of several texts in a response, even where it spans tokens or blocks.

    Args:
        tokenizer: Turns tokens into text.
        strings: The texts, none of them empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        if isinstance(strings, str) or not all(isinstance(text, str) and text for text in strings):
            raise UserError(f"stop: expected a list of texts, none of them empty, got {strings!r}")
        self._tokenizer = tokenizer
        self._strings = tuple(strings)

    def __call__(self, token_ids: list[int]) -> int | None:
        """Return the number of tokens up to and including the one that completes a stop string, or None."""
        if not self._is_in(token_ids):
            return None
        lengths = range(1, len(token_ids) + 1)
        return lengths[bisect_left(lengths, True, key=lambda length: self._is_in(token_ids[:length]))]

    def cut(self, text: str) -> str:
        """Return the text up to the first stop string, or all of it."""
        starts = [start for start in (text.find(string) for string in self._strings) if start >= 0]
        return text[: min(starts, default=len(text))]

    def settled_length(self, text: str) -> int:
        """Return the length of the text without what may be the beginning of a stop string at its end."""
        starts = (
            start
            for string in self._strings
            for start in range(max(len(text) - len(string) + 1, 0), len(text))
            if string.startswith(text[start:])
        )
        return min(starts, default=len(text))

    def _is_in(self, token_ids: list[int]) -> bool:
        text = str(self._tokenizer.decode(token_ids, skip_special_tokens=True))
        return self.cut(text) != text
