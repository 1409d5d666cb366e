"""What a user gets for a prompt."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.engine.request import DecodedSequence
from dmaxlit.engine.stop_strings import StopStrings

__all__ = ["Generation"]


@dataclass(frozen=True)
class Generation(DecodedSequence):
    """A decoded response with its prompt and text.

    Args:
        token_ids: Up to and including EOS, or up to the budget.
        num_forwards: Forwards the prompt took part in. Prefill and commit ride in them and add none.
        finished: The response ends with EOS or a stop string.
        hit_step_limit: Blocks that were closed before they had converged.
        prompt: The prompt's text.
        text: The response's text, without special tokens and up to the stop string.
        num_extra_blocks: Blocks read beside the prompt's own, all forwards together.
    """

    prompt: str
    text: str

    @classmethod
    def from_row(
        cls, row: DecodedSequence, prompt: str, tokenizer: PreTrainedTokenizerBase, stop: StopStrings | None = None
    ) -> "Generation":
        """Add the texts to a decoded row."""
        text = str(tokenizer.decode(row.token_ids, skip_special_tokens=True))
        fields = {name: getattr(row, name) for name in DecodedSequence.__dataclass_fields__}
        return cls(**fields, prompt=prompt, text=text if stop is None else stop.cut(text))

    def to_dict(self) -> dict[str, Any]:
        """Prompt, response and counts as plain values for JSON."""
        return {
            "prompt": self.prompt,
            "response": self.text,
            "num_tokens": self.num_tokens,
            "num_forwards": self.num_forwards,
            "finished": self.finished,
            "hit_step_limit": self.hit_step_limit,
            **({"num_extra_blocks": self.num_extra_blocks} if self.num_extra_blocks else {}),
        }
