"""The text of a response, and how much of it no further token can change."""

import re
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
# What `clean_up_tokenization_spaces` may still rewrite: a space and the beginning of one of ., ?, ', n't, 've, ...
_UNCLEAN_END = re.compile(r"\s+\S{0,3}$")


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
        end = len(token_ids)
        for first, last in self.byte_runs(token_ids):
            if last == len(token_ids):
                end = first
        # The last character of other tokenizers may lack bytes as well.
        text = self(token_ids[:end]).rstrip("\ufffd")
        if getattr(self._tokenizer, "clean_up_tokenization_spaces", False):
            text = _UNCLEAN_END.sub("", text)
        return text

    def byte_runs(self, token_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the first and last index (exclusive) of each run of byte tokens; special tokens do not end one."""
        if not self._has_bytes:
            return
        first = None
        tokens = self._tokenizer.convert_ids_to_tokens(list(token_ids))
        for index, (token_id, token) in enumerate(zip(token_ids, tokens, strict=True)):
            if token is not None and _BYTE.fullmatch(token):
                first = index if first is None else first
            elif first is not None and token_id not in self._is_special:
                yield first, index
                first = None
        if first is not None:
            yield first, len(token_ids)

    def is_special(self, token_id: int) -> bool:
        """Return whether a token is special."""
        return token_id in self._is_special
