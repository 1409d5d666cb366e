"""Texts that a tokenizer cannot write, such as English for a vocabulary of 38 words."""

import numpy as np
from transformers import PreTrainedTokenizerBase

_MAX_SHARE = 0.1  # of the tokens; single signs that a vocabulary lacks are ordinary


class UnknownTokens:
    """Counts the unknown tokens of a corpus.

    Args:
        tokenizer: The tokenizer. One whose unknown token has another meaning too, or that has none, is not counted.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        others = {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.mask_token_id}
        self._id = None if tokenizer.unk_token_id in others else tokenizer.unk_token_id
        self._token = tokenizer.unk_token
        self._unknown = self._all = 0

    def count(self, ids: np.ndarray) -> None:
        """Count some tokens, ``[tokens]``."""
        if self._id is not None:
            self._unknown += int((ids == self._id).sum())
            self._all += len(ids)

    @property
    def warning(self) -> str | None:
        """A line for the user if more than a tenth of the tokens are unknown, else None."""
        if self._unknown <= _MAX_SHARE * self._all:
            return None
        share = self._unknown / self._all
        return (
            f"corpus: {share:.0%} of its tokens are unknown to the model's tokenizer, and learnt as {self._token}; "
            "choose a model of its language (model.backbone.pretrained)"
        )
