"""How prompts are decoded: one set of settings for Python, the command line and files of responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.decoding import Decoder, make_decoder
from dmaxlit.decoding.admission import AdmissionPolicy, make_admission
from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.sampler import Sampler
from dmaxlit.engine.window import check_policy
from dmaxlit.errors import UserError, describe_value
from dmaxlit.option_types import check_option_types

__all__ = ["DecodeSettings"]

_CHECKED_BY_RANGE = ("temperature", "top_p")
_SPEED_ONLY = ("batch_size", "compile", "check_decoder")


@dataclass(frozen=True)
class DecodeSettings:
    """How prompts are decoded.

    Args:
        decoder: Registered name or import path of the decoder, or a decoder.
        decoder_options: Options of a decoder given by name.
        max_new_tokens: Most tokens of a response, EOS included, at least 1.
        batch_size: Prompts that share a forward, at least 1. Changes the speed only.
        max_forwards: Most forwards for one prompt, at least 1; None for no limit.
        temperature: 0 takes the most probable tokens; above 0 tokens are sampled.
        top_p: In (0, 1]; tokens are sampled from the smallest set with that probability.
        seed: Seed of the samples.
        stop: Texts that end a response as EOS does; the response's text ends before them. A special token may be one.
        compile: Compile the forwards (``torch.compile``). Changes the speed only.
        check_decoder: Check what a decoder of your own returns in the first forwards.
        window: Most blocks of a prompt that are open at once, at least 1.
        admission: Registered name or import path of the policy that says when a window takes in the next block, or a
            policy. Without a window of several blocks there is none to choose.
        admission_options: Options of a policy given by name.

    Raises:
        UserError: For a setting of another type.
    """

    decoder: str | Decoder = "spd"
    decoder_options: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 256
    batch_size: int = 64
    max_forwards: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: Sequence[str] = ()
    compile: bool = False
    check_decoder: bool = True
    window: int = 1
    admission: str | AdmissionPolicy = "progress"
    admission_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A decoder and a policy are checked where they are made, and numbers with a range by the sampler.
        settings = {
            name: value
            for name, value in vars(self).items()
            if name not in ("decoder", "admission") and not (name in _CHECKED_BY_RANGE and isinstance(value, float))
        }
        check_option_types(type(self), settings)
        if not isinstance(self.stop, Sequence):  # its texts are checked with the tokenizer
            raise UserError(f"stop: expected a list of texts, got {describe_value(self.stop)}")

    @classmethod
    def of(cls, settings: "DecodeSettings | Mapping[str, Any]") -> "DecodeSettings":
        """Return settings that may be given as a mapping from their names.

        Raises:
            UserError: For an unknown name, or a setting of another type.
        """
        if isinstance(settings, DecodeSettings):
            return settings
        if not isinstance(settings, Mapping):
            raise UserError(f"settings: expected DecodeSettings or a mapping, got {describe_value(settings)}")
        known = [f.name for f in fields(cls)]
        unknown = [str(name) for name in settings if name not in known]
        if unknown:
            raise UserError(f"settings: expected names among {', '.join(known)}, got {', '.join(unknown)}")
        return cls(**settings)

    def make_engine(self, denoiser: Denoiser, first_index: int | Sequence[int] = 0) -> BlockDecoder:
        """Build the engine that decodes with these settings.

        Args:
            denoiser: The model.
            first_index: Index of the first prompt, if a list is decoded in several parts, or the index of each. Samples
                depend on it.

        Raises:
            UserError: For an unknown decoder or option, a setting out of range, or a policy without a window.
        """
        admission = make_admission(self.admission, **self.admission_options)
        check_policy(self.window, self.admission, self.admission_options)
        sampler = Sampler(self.temperature, self.top_p, self.seed, first_index)
        decoder = make_decoder(self.decoder, **self.decoder_options)
        return BlockDecoder(
            denoiser,
            decoder,
            self.batch_size,
            max_forwards=self.max_forwards,
            sampler=sampler,
            stop=self.stop,
            compile=self.compile,
            check_decoder=self.check_decoder,
            window=self.window,
            admission=admission,
        )

    def without_unused_policy(self) -> "DecodeSettings":
        """Return these settings without the policy of a window, if there is but one block in it."""
        return self if self.window > 1 else replace(self, admission="progress", admission_options={})

    @property
    def title(self) -> str:
        """The decoder's name with its options, a window of several blocks, and sampling that is not the default."""
        parts = [_name(self.decoder), *_values(self.decoder_options)]
        if self.window > 1:
            parts += [f"window={self.window}", _name(self.admission), *_values(self.admission_options)]
        if self.temperature:
            parts += _values({"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed})
        return " ".join(parts)

    def identity(self) -> dict[str, Any]:
        """Return the settings that responses depend on, as JSON values: all but those that change the speed only.

        Raises:
            UserError: If the decoder or the admission policy is not given by name.
        """
        if not isinstance(self.decoder, str):
            raise UserError(f"decoder: expected a name, which a file can hold, got a {type(self.decoder).__name__}")
        if not isinstance(self.admission, str):
            raise UserError(f"admission: expected a name, which a file can hold, got a {type(self.admission).__name__}")
        identity = {name: value for name, value in vars(self).items() if name not in _SPEED_ONLY}
        if self.window == 1:  # responses do not depend on the policy
            for name in ("window", "admission", "admission_options"):
                del identity[name]
        if self.max_forwards is None:  # absent from the records of files begun before there was such a limit
            del identity["max_forwards"]
        return identity | {"stop": list(self.stop)}


def _name(value: str | Decoder | AdmissionPolicy) -> str:
    return value if isinstance(value, str) else type(value).__name__


def _values(options: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in options.items()]
