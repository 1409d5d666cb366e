"""How a corpus is distilled."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from dmaxlit.constructors import constructor_options
from dmaxlit.data.near_duplicates import NearDuplicates
from dmaxlit.decoding import DECODERS, make_decoder
from dmaxlit.errors import UserError, check_at_least, check_choice, check_temperature

__all__ = ["DistillSettings"]

#: Prompts of a task that are answered where nobody says how many.
DEFAULT_NUM_PROMPTS = 2048
#: Why prompts of a file or list need a budget.
NO_BUDGET = "max_new_tokens: expected a number, since prompts alone have no budget of their own"
#: The least and the greatest similarity that 128 hashes can tell.
SIMILARITIES = (0.1, 0.95)

Keep = Literal["finished", "correct", "all"]
Duplicates = Literal["keep", "drop", "drop_near"]

_DECODING = (
    "decoder",
    "decoder_options",
    "max_new_tokens",
    "batch_size",
    "seed",
    "temperature",
    "top_p",
    "check_decoder",
)
_FILTERS = ("held_out", "min_length", "max_length", "duplicates", "similarity")


@dataclass
class DistillSettings:
    """How a corpus is distilled.

    Args:
        num_prompts: Prompts to answer. Default: 2048 of a task, or all if it has fewer; all of a list.
        decoder: Registered name of the decoder.
        decoder_options: Its options; DMax distils with threshold 0.95.
        max_new_tokens: Most tokens of a response, EOS included; None for the task's own.
        batch_size: Prompts decoded together. It changes the speed only, so a run may be resumed with another.
        keep: ``finished``: every response that ended in EOS or a stop text of the task, right or wrong, as DMax does.
            ``correct``: of these, the ones the task's checker accepts. ``all``: also responses cut off by the budget.
            Responses that are programs are run only for ``correct``; others are judged and counted in any case.
        seed: Seed of the samples at a temperature.
        temperature: 0 takes the most probable tokens; above 0 tokens are sampled. What is sampled for a prompt depends
            on the seed and its index only: that among the prompts to answer, without those of ``held_out`` and each
            ``num_samples`` times.
        top_p: In (0, 1]; tokens are sampled from the smallest set with that probability.
        check_decoder: Check what a decoder of your own returns in the first forwards.
        num_samples: Responses to each prompt, one after the other in the corpus; more than one need a temperature.
        held_out: Share of the prompts, in [0, 1), that get no response, by the hash of their text. They are written to
            ``NAME.held_out.jsonl``, next to the corpus ``NAME.jsonl``.
        min_length: Fewest tokens of a response, EOS included; None for any number.
        max_length: Most tokens of a response that is kept; None for any number.
        duplicates: ``keep`` them; ``drop`` rows whose text, prompt and response, is that of an earlier one but for case
            and white space, with the same tools; ``drop_near`` also those that share most of their runs of five words
            with an earlier one.
        similarity: From which share on, from 0.1 to 0.95; see :class:`~dmaxlit.data.near_duplicates.NearDuplicates`.
    """

    num_prompts: int | None = None
    decoder: str = "threshold"
    decoder_options: dict[str, Any] = field(default_factory=lambda: {"threshold": 0.95})
    max_new_tokens: int | None = None
    batch_size: int = 64
    keep: Keep = "finished"
    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    check_decoder: bool = True
    num_samples: int = 1
    held_out: float = 0.0
    min_length: int | None = None
    max_length: int | None = None
    duplicates: Duplicates = "keep"
    similarity: float = 0.8

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: If a setting is out of range, there is no such decoder or option, or ``drop_near`` lacks its
                package.
        """
        check_temperature(self.temperature)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: expected a number above 0 and at most 1, got {self.top_p}")
        check_at_least(1, num_prompts=self.num_prompts, batch_size=self.batch_size, max_new_tokens=self.max_new_tokens)
        check_choice("keep", self.keep, ("finished", "correct", "all"))
        self._check_filters()
        known = constructor_options(DECODERS.get(self.decoder))
        for name in ("temperature", "top_p", "seed"):
            if name in self.decoder_options and name not in known:
                raise UserError(f"decoder_options: expected no {name}, which is a setting of its own (--{name})")
        make_decoder(self.decoder, **self.decoder_options)

    def _check_filters(self) -> None:
        check_at_least(1, num_samples=self.num_samples, min_length=self.min_length, max_length=self.max_length)
        if self.num_samples > 1 and not self.temperature:
            raise UserError(f"num_samples: expected 1 at temperature 0, where all are alike, got {self.num_samples}")
        if not 0 <= self.held_out < 1:
            raise UserError(f"held_out: expected a share from 0 and below 1, got {self.held_out}")
        for name in ("max_length", "max_new_tokens"):
            limit = getattr(self, name)
            if None not in (self.min_length, limit) and self.min_length > limit:
                raise UserError(f"min_length: expected at most {name}, {limit}, got {self.min_length}")
        check_choice("duplicates", self.duplicates, ("keep", "drop", "drop_near"))
        least, most = SIMILARITIES
        if not least <= self.similarity <= most:
            raise UserError(f"similarity: expected a share from {least} to {most}, got {self.similarity}")
        if self.duplicates != "drop_near" and self.similarity != UNNAMED["similarity"]:
            raise UserError(f"similarity: expected none without drop_near as duplicates, got {self.similarity}")
        if self.duplicates == "drop_near":
            NearDuplicates(self.similarity)  # refuses without its package, before a model is loaded

    def unfiltered(self, num_prompts: int | None) -> "DistillSettings":
        """Return the same settings for some prompts, all of which get a response that is kept."""
        return replace(self, num_prompts=num_prompts, keep="all", **{name: UNNAMED[name] for name in _FILTERS})

    def decoding(self) -> dict[str, Any]:
        """Return the settings of the engine."""
        return {name: getattr(self, name) for name in _DECODING}

    def recorded(self, decoded: bool = True) -> dict[str, Any]:
        """Return the settings that the corpus depends on, for its manifest.

        What was added later is left out at its defaults, as in the manifests of corpora made before.

        Args:
            decoded: Whether a model of ours answers, with the decoder of these settings.
        """
        left_out = {"batch_size", "check_decoder", *(() if decoded else ("decoder", "decoder_options"))} | {
            name for name, default in UNNAMED.items() if getattr(self, name) == default
        }
        return {name: value for name, value in asdict(self).items() if name not in left_out}


#: Settings that a manifest does not name at their defaults, so that it is the same as before there were any.
UNNAMED: dict[str, Any] = {
    name: getattr(DistillSettings, name) for name in ("temperature", "top_p", "num_samples", *_FILTERS)
}
