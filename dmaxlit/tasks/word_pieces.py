"""Small tokenizers of tasks in natural language: byte-level BPE of whole words, trained on the task's own text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

__all__ = ["SPECIAL_TOKENS", "load_word_pieces", "train_word_pieces"]

SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "<eos>", "mask_token": "<mask>"}


def load_word_pieces(path: Path) -> "PreTrainedTokenizerFast":
    """Return the tokenizer of a file that :func:`train_word_pieces` made."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(path), clean_up_tokenization_spaces=False, **SPECIAL_TOKENS)


def train_word_pieces(texts: Sequence[str], word: str, size: int) -> "Tokenizer":
    """Train a byte-level BPE whose longest pieces are words; the result is the same on every machine.

    Pieces that are only a stage on the way to a longer one are dropped, so that nearly all that remain occur in the
    text. A word that is a piece needs no merges; other text falls into the pieces that are left, bytes at worst.

    Args:
        texts: The texts.
        word: Regular expression of a word, with the space before it: no piece reaches beyond one.
        size: Most pieces before any are dropped, special tokens included.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")  # the first word of a text is the same piece as inside it
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(word), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS.values()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    used = {piece for encoding in tokenizer.encode_batch(list(texts)) for piece in encoding.tokens}
    state = json.loads(tokenizer.to_str())
    kept = [piece for piece in state["model"]["vocab"] if piece in used or piece in alphabet]
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL_TOKENS.values(), *kept])}
    merges = [(left, right) for left, right in state["model"]["merges"] if {left, right, left + right} <= {*kept}]
    tokenizer.model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
    tokenizer.add_special_tokens(special)
    return tokenizer
