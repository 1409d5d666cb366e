"""The text of a response, and how much of it no further token can change."""

import codecs
import re
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
# What `clean_up_tokenization_spaces` may still rewrite: a space and the beginning of one of ., ?, ', n't, 've, ...
_UNCLEAN_END = re.compile(r"\s+\S{0,3}$")
_LONGEST_UNCLEAN = 4  # characters behind such a space, a newline among them


class ResponseText:
    """Turns the tokens of a response into text.

    Tokenizers with byte fallback (those of Llama 2 and Gemma) have tokens ``<0xNN>`` for single bytes. They turn a run
    of such tokens into characters only if all of its bytes are valid; one incomplete character makes the whole run
    U+FFFD. Until such a run has ended, nothing of its text is settled.

    Args:
        tokenizer: The model's tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        special = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        #: The special tokens' ids by their text.
        self.special_ids: dict[str, int] = special
        self._is_special = frozenset(special.values())
        newline = tokenizer.convert_tokens_to_ids("<0x0A>")
        self._has_bytes = newline is not None and tokenizer.convert_ids_to_tokens(newline) == "<0x0A>"

    def __call__(self, token_ids: Sequence[int], with_special: bool = False) -> str:
        """Return the text of some tokens.

        Args:
            token_ids: The tokens.
            with_special: Whether special tokens are part of it.
        """
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=not with_special))

    def settled(self, token_ids: Sequence[int]) -> str:
        """Return the beginning of the text that stays whatever tokens follow."""
        return self.without_open_end(self(token_ids[: self.open_run(token_ids)]))

    def without_open_end(self, text: str) -> str:
        """Return a text without what the next token may change, given that it ends no run of bytes."""
        text = text.rstrip("\ufffd")  # the last character of other tokenizers may lack bytes as well
        if not getattr(self._tokenizer, "clean_up_tokenization_spaces", False):
            return text
        # A search from the beginning would take a time that grows with the text.
        first = len(text[: max(len(text.rstrip()) - _LONGEST_UNCLEAN, 0)].rstrip())
        return text[:first] + _UNCLEAN_END.sub("", text[first:])

    def open_run(self, token_ids: Sequence[int]) -> int:
        """Return the index at which a run of bytes begins that the next token may continue, or the number of tokens."""
        for first, last in self.byte_runs(token_ids):
            if last == len(token_ids):
                return first
        return len(token_ids)

    def byte_runs(self, token_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the first and last index (exclusive) of each run of byte tokens; special tokens do not end one."""
        first = None
        for index, byte in enumerate(self._bytes(token_ids)):
            if byte is not None:
                first = index if first is None else first
            elif first is not None and token_ids[index] not in self._is_special:
                yield first, index
                first = None
        if first is not None:
            yield first, len(token_ids)

    def character_ends(self, token_ids: Sequence[int], with_special: bool = False) -> Iterator[list[int]]:
        """Yield the lengths at which a run of bytes is a text, for each part of it that is decoded as a whole.

        Args:
            token_ids: The run: byte tokens, and special ones among them.
            with_special: Whether special tokens are part of the text, and so end a part of the run.
        """
        ends: list[int] = []
        decoder, is_valid = codecs.getincrementaldecoder("utf-8")(), True
        for length, byte in enumerate(self._bytes(token_ids), start=1):
            if byte is None:
                if with_special:
                    yield ends
                    ends, decoder, is_valid = [], codecs.getincrementaldecoder("utf-8")(), True
                continue
            try:
                is_valid = is_valid and decoder.decode(bytes([byte])) is not None
            except UnicodeDecodeError:
                is_valid = False
            if is_valid and not decoder.getstate()[0]:
                ends.append(length)
        yield ends

    def plain_ends(self, token_ids: Sequence[int]) -> list[int]:
        """Return the lengths behind the tokens that are neither bytes nor special."""
        columns = zip(token_ids, self._bytes(token_ids), strict=True)
        return [
            length
            for length, (token, byte) in enumerate(columns, start=1)
            if byte is None and token not in self._is_special
        ]

    def lengths_outside_runs(self, token_ids: Sequence[int]) -> list[int]:
        """Return the lengths, 0 and all among them, that cut no run of bytes in which there is no special token."""
        bytes_of = self._bytes(token_ids)
        inner = [length for length in range(1, len(token_ids)) if None in bytes_of[length - 1 : length + 1]]
        return [0, *inner, len(token_ids)]

    def is_special(self, token_id: int) -> bool:
        """Return whether a token is special."""
        return token_id in self._is_special

    def _bytes(self, token_ids: Sequence[int]) -> list[int | None]:
        """Return the byte of each token that is one."""
        if not self._has_bytes:
            return [None] * len(token_ids)
        tokens = self._tokenizer.convert_ids_to_tokens(list(token_ids))
        matches = [None if token is None else _BYTE.fullmatch(token) for token in tokens]
        return [None if match is None else int(match[1], 16) for match in matches]
