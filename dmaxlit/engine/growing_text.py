"""The text of a response that grows, of which only the end is decoded again."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial

from dmaxlit.engine.response_text import ResponseText

_STRIDE = 32  # tokens from one attempt to move the cut to the next
_CONTEXTS = (8, 32)  # tokens in front of the cut that are decoded again
_OPEN = 8  # characters at the end that the next tokens may change: a part of one, or spaces that are cleaned up


class GrowingText:
    """The text of tokens to which others are added.

    What a token adds to the text depends on the tokens next to it, and not on those far away. So the text before a
    *cut* is kept, and the tokens behind it are decoded together with a few in front of it. The cut lies behind an
    ordinary token, in no run of bytes, and is moved only where the text at hand is the same with it as without.

    Args:
        text: Turns tokens into text.
        margin: Characters that stay behind the cut, besides those that may still change.
        with_special: Whether special tokens are part of the text.

    Attributes:
        cut: Number of tokens before the cut.
        head: Their text.
    """

    def __init__(self, text: ResponseText, margin: int = 0, with_special: bool = False) -> None:
        self._text, self._margin, self._with_special = text, margin + _OPEN, with_special
        self.cut, self.head = 0, ""
        self._begin, self._before = 0, ""  # the first token that is decoded again, and the text from it to the cut
        self._tried = 0
        self._last = (0, 0, "")  # the first token, the end and the text of what was decoded last

    def __call__(self, token_ids: Sequence[int], end: int | None = None) -> str:
        """Return the text of the first tokens.

        Args:
            token_ids: All tokens so far; those before the cut are the ones it was moved with.
            end: Number of them; None for all.
        """
        if end is not None and end < self.cut:
            return self._decode(token_ids, 0, end)
        return self.head + self.tail(token_ids, end)

    def tail(self, token_ids: Sequence[int], end: int | None = None) -> str:
        """Return the text of the first tokens behind the cut; arguments as of a call."""
        return self._decode(token_ids, self._begin, len(token_ids) if end is None else end)[len(self._before) :]

    def settled(self, token_ids: Sequence[int]) -> str:
        """Return the beginning of the text that stays whatever tokens follow."""
        return self._text.without_open_end(self(token_ids, self._end_of_closed(token_ids)))

    def settle(self, token_ids: Sequence[int]) -> None:
        """Move the cut as far as possible, once so many tokens have been added that this pays."""
        if len(token_ids) - self._tried < _STRIDE:
            return
        self._tried = len(token_ids)
        end = self._end_of_closed(token_ids)
        whole = self._decode(token_ids, self._begin, end)
        places = [self.cut + length for length in self._text.plain_ends(token_ids[self.cut : end])]
        text_to = partial(self._decode, token_ids, self._begin)
        number = bisect_right(places, len(whole) - self._margin, key=lambda place: len(text_to(place)))
        if number and whole.startswith(before := text_to(places[number - 1])):
            self.head += before[len(self._before) :]
            self.cut, self._before = places[number - 1], before
            self._shorten(token_ids, end, whole[len(before) :])

    def _shorten(self, token_ids: Sequence[int], end: int, tail: str) -> None:
        """Decode fewer tokens in front of the cut from now on, if these give the same text behind it.

        Args:
            token_ids: The tokens.
            end: Number of those whose text is known.
            tail: That text, behind the cut.
        """
        for length in _CONTEXTS:
            begin = max(self.cut - length, self._begin)
            before = self._decode(token_ids, begin, self.cut)
            if self._decode(token_ids, begin, end) == before + tail:
                self._begin, self._before = begin, before
                return

    def _end_of_closed(self, token_ids: Sequence[int]) -> int:
        """Return the number of tokens before a run of bytes that the next token may continue."""
        return self.cut + self._text.open_run(token_ids[self.cut :])

    def _decode(self, token_ids: Sequence[int], begin: int, end: int) -> str:
        """Return the text of some of the tokens, which may have been asked for just now."""
        if self._last[:2] != (begin, end):
            self._last = begin, end, self._text(token_ids[begin:end], self._with_special)
        return self._last[2]
