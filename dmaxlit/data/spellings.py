"""Other spellings of control tokens, which a tokenizer's normalizer makes the same as theirs."""

from typing import Any

from transformers import PreTrainedTokenizerBase


class Spellings:
    """Finds the spellings in which a text becomes an added token though it does not contain the token's text.

    Added tokens that are marked as normalized are found in the normalized text: under a normalizer that makes lower
    case, ``<|MASK|>`` is the token ``<|mask|>``, and other normalizers turn wide characters into narrow ones or drop
    accents.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        has_normalizer = tokenizer.is_fast and backend is not None and backend.normalizer is not None
        self._tokens = {
            index: token.content
            for index, token in (tokenizer.added_tokens_decoder.items() if has_normalizer else ())
            if token.normalized and not token.content.isspace()
        }

    def unified(self, value: Any) -> Any:
        """Return a value in whose texts, at any depth, every such spelling is the token's own text.

        The normalizer makes the same of both, so the text's tokens stay as they are.

        Args:
            value: A text, or a list or mapping of values.
        """
        if not self._tokens:
            return value
        if isinstance(value, str):
            return self._unified_text(value)
        if isinstance(value, dict):
            return {name: self.unified(item) for name, item in value.items()}
        return [self.unified(item) for item in value] if isinstance(value, (list, tuple)) else value

    def _unified_text(self, text: str) -> str:
        encoded: Any = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pieces, end = [], 0
        for index, (begin, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if index in self._tokens and (spelled := text[begin:stop].strip()):
                pieces += [text[end:begin], text[begin:stop].replace(spelled, self._tokens[index])]
                end = stop
        return "".join([*pieces, text[end:]])
