"""The task's tokenizer: a byte-level BPE trained on the task's own text, which is shipped with the package."""

from pathlib import Path
from typing import TYPE_CHECKING

from dmaxlit.tasks.word_pieces import load_word_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["PIECES", "load_tokenizer"]

PIECES = Path(__file__).parent / "pieces.json"


def load_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the shipped tokenizer."""
    return load_word_pieces(PIECES)
