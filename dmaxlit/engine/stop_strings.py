"""Texts that end a response."""

from bisect import bisect_left
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from dmaxlit.errors import UserError

__all__ = ["StopStrings"]


class StopStrings:
    """Finds the first of some texts in a response, also where it spans tokens or blocks.

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
        """Tokens up to and including the one that completes the first stop string, or None if there is none."""
        if self._cut(token_ids) is None:
            return None
        lengths = range(1, len(token_ids) + 1)
        return lengths[bisect_left(lengths, True, key=lambda length: self._cut(token_ids[:length]) is not None)]

    def cut(self, text: str) -> str:
        """The text up to the first stop string, or all of it."""
        places = [place for place in (text.find(string) for string in self._strings) if place >= 0]
        return text[: min(places, default=len(text))]

    def settled(self, text: str) -> int:
        """Length of the text without what may be the beginning of a stop string at its end."""
        starts = (
            place
            for string in self._strings
            for place in range(max(len(text) - len(string) + 1, 0), len(text))
            if string.startswith(text[place:])
        )
        return min(starts, default=len(text))

    def _cut(self, token_ids: list[int]) -> str | None:
        text = str(self._tokenizer.decode(token_ids, skip_special_tokens=True))
        cut = self.cut(text)
        return None if cut == text else cut
