"""Training of the task's tokenizer: ``python -m dmaxlit.tasks.stories.train_pieces`` writes the shipped file anew."""

from typing import TYPE_CHECKING

from dmaxlit.tasks.stories.task import PIECES, StoriesTask
from dmaxlit.tasks.word_pieces import train_word_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["train_tokenizer"]

# A word with the space before it is one piece at most; every digit is a piece, so that numbers can be computed with.
_WORD = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"


def train_tokenizer(size: int = 8000, stories: int = 8000) -> "Tokenizer":
    """Train the BPE on stories and answers of every difficulty; see :func:`train_word_pieces`.

    Args:
        size: Most pieces before any are dropped, special tokens included.
        stories: Number of training examples of each difficulty.
    """
    texts = [
        f"{example.prompt} {example.response}"
        for difficulty in ("easy", "standard", "hard")
        for example in StoriesTask(difficulty).examples("train", stories)
    ]
    return train_word_pieces(texts, _WORD, size)


if __name__ == "__main__":
    train_tokenizer().save(str(PIECES), pretty=False)
