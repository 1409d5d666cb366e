"""How a corpus is distilled."""

import inspect
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dmaxlit.decoding import DECODERS, make_decoder
from dmaxlit.errors import UserError, check_at_least, check_choice, check_temperature

__all__ = ["DistillSettings"]

#: The settings of sampling and their defaults, at which nothing is sampled.
SAMPLING = {"temperature": 0.0, "top_p": 1.0}

Keep = Literal["finished", "correct", "all"]


@dataclass
class DistillSettings:
    """How a corpus is distilled.

    Args:
        num_prompts: Training prompts to answer.
        decoder: Registered name of the decoder.
        decoder_options: Its options; DMax distils with threshold 0.95.
        max_new_tokens: Most tokens of a response, EOS included; None for the task's own.
        batch_size: Prompts decoded together. It changes the speed only, so a run may be resumed with another.
        keep: ``finished``: every response that ended in EOS, right or wrong, as DMax does. ``correct``: of these, the
            ones the task's checker accepts. ``all``: also responses cut off by the budget.
        seed: Seed of the samples at a temperature.
        temperature: 0 takes the most probable tokens; above 0 tokens are sampled. What is sampled for a prompt depends
            on the seed and its index only.
        top_p: In (0, 1]; tokens are sampled from the smallest set with that probability.
        check_decoder: Check what a decoder of your own returns in the first forwards.
    """

    num_prompts: int = 2048
    decoder: str = "threshold"
    decoder_options: dict[str, Any] = field(default_factory=lambda: {"threshold": 0.95})
    max_new_tokens: int | None = None
    batch_size: int = 64
    keep: Keep = "finished"
    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    check_decoder: bool = True

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: If a setting is out of range, or there is no such decoder or option.
        """
        check_temperature(self.temperature)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: expected a number above 0 and at most 1, got {self.top_p}")
        check_at_least(1, num_prompts=self.num_prompts, batch_size=self.batch_size, max_new_tokens=self.max_new_tokens)
        check_choice("keep", self.keep, ("finished", "correct", "all"))
        known = inspect.signature(DECODERS.get(self.decoder)).parameters
        for name in ("temperature", "top_p", "seed"):
            if name in self.decoder_options and name not in known:
                raise UserError(f"decoder_options: expected no {name}, which is a setting of its own (--{name})")
        make_decoder(self.decoder, **self.decoder_options)

    def recorded(self) -> dict[str, Any]:
        """Return the settings that the corpus depends on, for its manifest.

        Sampling at its defaults is left out, as in the manifests of corpora made before there was any.
        """
        left_out = {"batch_size", "check_decoder"} | {
            name for name, default in SAMPLING.items() if getattr(self, name) == default
        }
        return {name: value for name, value in asdict(self).items() if name not in left_out}
