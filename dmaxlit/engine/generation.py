"""The response to a prompt, as text."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.encoding import Prompt
from dmaxlit.engine.prompts import shown_prompt
from dmaxlit.engine.request import DecodedSequence
from dmaxlit.engine.stop_strings import StopStrings
from dmaxlit.viewer.notebook import table

__all__ = ["Generation"]


@dataclass(frozen=True)
class Generation(DecodedSequence):
    """A decoded response with its prompt and text.

    Args:
        token_ids: Up to and including EOS, or up to the budget.
        num_forwards: Forwards the prompt took part in. Prefill and commit are part of these and add none.
        finished: The response ends with EOS or a stop string.
        hit_step_limit: Blocks that were closed before they had converged.
        stopped: The response ends with a stop string, and not with EOS.
        prompt: The prompt: its text, or its chat messages.
        text: The response's text, without special tokens and up to the stop string.
        num_extra_blocks: Extra blocks processed next to the prompt's own, over all forwards.
    """

    prompt: Prompt
    text: str

    @classmethod
    def from_sequence(
        cls,
        sequence: DecodedSequence,
        prompt: Prompt,
        tokenizer: PreTrainedTokenizerBase,
        stop: StopStrings | None = None,
    ) -> "Generation":
        """Add the texts to a decoded sequence.

        Args:
            sequence: The response's tokens and counts.
            prompt: The prompt's text or chat messages.
            tokenizer: Turns tokens into text.
            stop: Texts that end a response; the text ends before them.
        """
        # EOS may be a token that the tokenizer does not call special, and would then be part of the text.
        ids = sequence.token_ids[:-1] if sequence.ends_with_eos else sequence.token_ids
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        if stop is not None:
            text = min(text, stop.text(sequence.token_ids), key=len)
        fields = {name: getattr(sequence, name) for name in DecodedSequence.__dataclass_fields__}
        return cls(**fields, prompt=prompt, text=text)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: prompt, response and counts, as text."""
        values = self.to_dict() | {"prompt": shown_prompt(self.prompt)}
        values["tokens per forward"] = self.num_tokens / max(self.num_forwards, 1)
        return table((name.removeprefix("num_").replace("_", " "), value) for name, value in values.items())

    def to_dict(self) -> dict[str, Any]:
        """Return prompt, response and counts as plain values for JSON."""
        return {
            "prompt": self.prompt,
            "response": self.text,
            "num_tokens": self.num_tokens,
            "num_forwards": self.num_forwards,
            "finished": self.finished,
            "hit_step_limit": self.hit_step_limit,
            **({"stopped": True} if self.stopped else {}),
            **({"num_extra_blocks": self.num_extra_blocks} if self.num_extra_blocks else {}),
        }
