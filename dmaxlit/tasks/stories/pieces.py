"""The task's tokenizer: a byte-level BPE trained on the task's own text, which is shipped with the package."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["PIECES", "SPECIAL_TOKENS", "load_tokenizer"]

PIECES = Path(__file__).parent / "pieces.json"
SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "<eos>", "mask_token": "<mask>"}


def load_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the shipped tokenizer."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(PIECES), clean_up_tokenization_spaces=False, **SPECIAL_TOKENS)
