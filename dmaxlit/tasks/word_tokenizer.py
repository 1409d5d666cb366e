"""Small tokenizers of the generated tasks, with one token a word."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def word_tokenizer(words: Iterable[str], with_lines: bool = False) -> "PreTrainedTokenizerFast":
    """Return a tokenizer with one token a word.

    Special tokens are not words: their text inside a prompt is an unknown word.

    Args:
        words: The vocabulary; repeats count once.
        with_lines: Let a line end be a word too, instead of white space.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", *words, *(["\n"] if with_lines else [])]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(" +"), "removed"), pre_tokenizers.Split(Regex(r"\n"), "isolated")]
        )
        if with_lines
        else pre_tokenizers.WhitespaceSplit()
    )
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "mask_token": "<mask>"}
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", clean_up_tokenization_spaces=False, **special
    )
