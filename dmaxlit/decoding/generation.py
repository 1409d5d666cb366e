"""What a user gets for a prompt."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.decoding.rows import DecodedRow

__all__ = ["Generation"]


@dataclass(frozen=True)
class Generation(DecodedRow):
    """A decoded response with its prompt and text.

    Args:
        token_ids: Up to and including EOS, or up to the budget.
        num_forwards: Forwards the prompt took part in. Prefill and commit ride in them and add none.
        finished: The response ends with EOS.
        capped: Blocks that were closed before they had converged.
        prompt: The prompt's text.
        text: The response's text, without special tokens.
    """

    prompt: str
    text: str

    @classmethod
    def from_row(cls, row: DecodedRow, prompt: str, tokenizer: PreTrainedTokenizerBase) -> "Generation":
        """Add the texts to a decoded row."""
        text = tokenizer.decode(row.token_ids, skip_special_tokens=True)
        return cls(row.token_ids, row.num_forwards, row.finished, row.capped, prompt, str(text))

    def to_dict(self) -> dict[str, Any]:
        """Prompt, response and counts as plain values for JSON."""
        return {
            "prompt": self.prompt,
            "response": self.text,
            "num_tokens": self.num_tokens,
            "num_forwards": self.num_forwards,
            "finished": self.finished,
            "capped": self.capped,
        }
