"""Training of the task's tokenizer: ``python -m dmaxlit.tasks.stories.train_pieces`` writes the shipped file anew."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from dmaxlit.tasks.stories.pieces import PIECES, SPECIAL_TOKENS
from dmaxlit.tasks.stories.task import StoriesTask

__all__ = ["train_tokenizer"]

# A word with the space before it is one piece at most; every digit is a piece, so that numbers can be computed with.
_WORD = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"


def train_tokenizer(size: int = 8000, stories: int = 8000) -> Tokenizer:
    """Train the BPE on stories and answers of every difficulty; the result is the same on every machine.

    Pieces that are only a stage on the way to a longer one are dropped, so that nearly all that remain occur in the
    text. A word that is a piece needs no merges; other text falls into the pieces that are left, bytes at worst.

    Args:
        size: Most pieces before any are dropped, special tokens included.
        stories: Number of training examples of each difficulty.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")  # the first word of a text is the same piece as inside it
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS.values()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [
        f"{example.prompt} {example.response}"
        for difficulty in ("easy", "standard", "hard")
        for example in StoriesTask(difficulty).examples("train", stories)
    ]
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    used = {piece for encoding in tokenizer.encode_batch(texts) for piece in encoding.tokens}
    state = json.loads(tokenizer.to_str())
    kept = [piece for piece in state["model"]["vocab"] if piece in used or piece in alphabet]
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL_TOKENS.values(), *kept])}
    merges = [(left, right) for left, right in state["model"]["merges"] if {left, right, left + right} <= {*kept}]
    tokenizer.model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
    tokenizer.add_special_tokens(special)
    return tokenizer


if __name__ == "__main__":
    train_tokenizer().save(str(PIECES), pretty=False)
