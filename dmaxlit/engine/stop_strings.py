"""Texts that end a response."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

from transformers import PreTrainedTokenizerBase

from dmaxlit.engine.growing_text import GrowingText
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

    def begin(self) -> "StopSearch":
        """Return the search in a response that grows."""
        return StopSearch(self._text, self._strings, self._ids, self._with_special)

    def __call__(self, token_ids: Sequence[int]) -> int | None:
        """Return the number of tokens up to and including the one that completes a stop string, or None."""
        return self.begin()(token_ids)

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of a response up to the first stop string, or all of it."""
        return self.begin().text(token_ids)


class StopSearch:
    """The search in one response. Each call is with the tokens of the calls before, and more.

    Args:
        text: Turns tokens into text.
        strings: The stop texts.
        ids: Ids of the special tokens among them.
        with_special: Those that contain special tokens.

    Attributes:
        growing: The response's text.
    """

    def __init__(
        self, text: ResponseText, strings: Sequence[str], ids: frozenset[int], with_special: Sequence[str]
    ) -> None:
        self._text, self._strings, self._ids, self._with_special = text, strings, ids, with_special
        # A stop text that is not complete yet, or that has just become visible, lies behind the cut.
        margin = max(map(len, strings), default=0)
        self.growing = GrowingText(text, margin)
        self._visible = GrowingText(text, margin, with_special=True)
        self._texts = [(strings, self.growing)]
        if with_special:
            self._texts.append((with_special, self._visible))
        self._checked = 0  # the first tokens, in which there is no stop string

    def __call__(self, token_ids: Sequence[int]) -> int | None:
        """Return the number of tokens up to and including the one that completes a stop string, or None."""
        first = None
        lengths = range(self._checked + 1, len(token_ids) + 1)
        if self._is_in(token_ids, len(token_ids)):
            first = lengths[bisect_left(lengths, True, key=lambda length: self._is_in(token_ids, length))]
        # Bytes after a stop string may hide it: that of an incomplete character makes others of its run unreadable.
        if first is not None or any("\ufffd" in growing.tail(token_ids) for _, growing in self._texts):
            hidden = self._first_in_runs(token_ids, first)
            first = first if hidden is None else hidden
        if first is None:
            self._checked = len(token_ids)
            self.settle(token_ids)
        return first

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text up to the first stop string, or all of it."""
        text = self.growing(token_ids)
        ends = [text[:start] for start in (text.find(string) for string in self._strings) if start >= 0]
        if (index := self._first_id(token_ids, 0, len(token_ids))) is not None:
            ends.append(self.growing(token_ids, index))
        ends += self._before(token_ids, lambda string, text: text.find(string))
        return _common_beginning([text, *ends])

    def settled(self, token_ids: Sequence[int]) -> str:
        """Return the text that stays whatever tokens follow: what may begin a stop string is no part of it."""
        text = self.growing.settled(token_ids)
        starts = (_possible_start(string, text) for string in self._strings)
        ends = [text[:start] for start in starts if start >= 0]
        ends += self._before(token_ids, _possible_start)
        return _common_beginning([text, *ends])

    def settle(self, token_ids: Sequence[int]) -> None:
        """Decode the first tokens no more, as far as no other token can change their text."""
        for _, growing in self._texts:
            growing.settle(token_ids)

    def _is_in(self, token_ids: Sequence[int], length: int) -> bool:
        """Return whether a stop string is visible in the first tokens."""
        return self._first_id(token_ids, self._checked, length) is not None or any(
            _is_visible(strings, growing, token_ids, length) for strings, growing in self._texts
        )

    def _first_id(self, token_ids: Sequence[int], first: int, end: int) -> int | None:
        """Return the index of the first special token, of those from ``first`` to ``end``, that is a stop string."""
        if not self._ids:
            return None
        return next((index for index in range(first, end) if token_ids[index] in self._ids), None)

    def _first_in_runs(self, token_ids: Sequence[int], end: int | None) -> int | None:
        """Return the first length within a run of bytes at which a stop string is visible, or None.

        Args:
            token_ids: The tokens.
            end: Number of them to look at; None for all.
        """
        cut = self.growing.cut
        for first, last in self._text.byte_runs(token_ids[cut:end]):
            run = token_ids[cut + first : cut + last]
            found = []
            for strings, growing in self._texts:
                for ends in self._text.character_ends(run, with_special=growing is self._visible):
                    # Within such a part of a run, what is visible stays so.
                    lengths = [cut + first + length for length in ends if cut + first + length > self._checked]
                    if lengths and _is_visible(strings, growing, token_ids, lengths[-1]):
                        is_visible = partial(_is_visible, strings, growing, token_ids)
                        found.append(lengths[bisect_left(lengths, True, key=is_visible)])
                        break
            if found:
                return min(found)
        return None

    def _before(self, token_ids: Sequence[int], find: Callable[[str, str], int]) -> list[str]:
        """Return the text before each stop string with special tokens, found where these are visible.

        Args:
            token_ids: The tokens.
            find: Returns where a string begins in a text, or -1.
        """
        if not self._with_special:
            return []
        visible = self._visible(token_ids)
        starts = [start for start in (find(string, visible) for string in self._with_special) if start >= 0]
        return [self._without_special(token_ids, visible, start) for start in starts]

    def _without_special(self, token_ids: Sequence[int], visible: str, end: int) -> str:
        """Return the first ``end`` characters of a text without those of special tokens."""
        first = self._visible.cut if end >= len(self._visible.head) else 0
        lengths = [first + length for length in self._text.lengths_outside_runs(token_ids[first:])]
        is_beyond = lambda count: len(self._visible(token_ids, count)) > end  # noqa: E731
        count = lengths[bisect_left(lengths, True, key=is_beyond) - 1]
        text = self.growing(token_ids, count)
        if count == len(token_ids) or self._text.is_special(token_ids[count]):
            return text
        return text + visible[len(self._visible(token_ids, count)) : end]


def _is_visible(strings: Sequence[str], growing: GrowingText, token_ids: Sequence[int], length: int) -> bool:
    """Return whether one of several texts is in the text of the first tokens, behind the cut."""
    tail = growing.tail(token_ids, length)
    return any(string in tail for string in strings)


def _possible_start(string: str, text: str) -> int:
    """Return where the longest end of a text that a string begins with starts, or -1."""
    start = text.find(string[0], max(len(text) - len(string) + 1, 0))
    while start >= 0 and not string.startswith(text[start:]):
        start = text.find(string[0], start + 1)
    return start


def _common_beginning(texts: Sequence[str]) -> str:
    """Return the longest text that all of several begin with."""
    shortest = min(texts, key=len)
    if all(text.startswith(shortest) for text in texts):  # without a look at each letter
        return shortest
    lengths = (length for length, letter in enumerate(shortest) if any(text[length] != letter for text in texts))
    return shortest[: next(lengths, len(shortest))]
