"""Training of the task's tokenizer: ``python -m dmaxlit.tasks.programs.train_pieces`` writes the shipped file anew."""

from typing import TYPE_CHECKING

from dmaxlit.tasks.programs.task import PIECES, ProgramsTask
from dmaxlit.tasks.word_pieces import train_word_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["train_tokenizer"]

# A word with the space or underscore before it, a digit, one sign of punctuation, or a line's end with its indentation.
_WORD = r"[ _]?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\n *|\s"


def train_tokenizer(size: int = 4000, programs: int = 4000) -> "Tokenizer":
    """Train the BPE on requests and answers of every difficulty; see :func:`train_word_pieces`.

    Args:
        size: Most pieces before any are dropped, special tokens included.
        programs: Number of training examples of each difficulty.
    """
    texts = [
        text
        for difficulty in ("easy", "standard", "hard")
        for example in ProgramsTask(difficulty).examples("train", programs)
        for text in (example.prompt, example.response or "")
    ]
    return train_word_pieces(texts, _WORD, size)


if __name__ == "__main__":
    train_tokenizer().save(str(PIECES), pretty=False)
