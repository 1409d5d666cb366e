"""The generation settings of a request of lm-evaluation-harness, in the engine's terms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmaxlit.errors import UserError, check_at_least, check_temperature

__all__ = ["GenerationSettings"]

# In the order in which lm-eval prefers them.
_BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# Without an effect on the most probable token.
_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
# Settings of other generators, with the values at which they change nothing.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "typical_p": (None, 1),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "repetition_penalty": (None, 1),
    "min_new_tokens": (None, 0),
    "use_cache": (None, True, False),
}
_KNOWN = ("until", *_BUDGETS, "do_sample", "temperature", "top_p", "seed")


@dataclass(frozen=True)
class GenerationSettings:
    """How the response to a request is decoded. Requests with equal settings share a batch.

    Args:
        stop: Texts that end the response.
        max_new_tokens: Most tokens of it, EOS included.
        temperature: 0 takes the most probable tokens.
        top_p: In (0, 1]; tokens are sampled from the smallest set with that probability.
        seed: Seed of the samples; None for that of the run.
    """

    stop: tuple[str, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None

    @classmethod
    def of(cls, options: Mapping[str, Any], max_gen_toks: int) -> "GenerationSettings":
        """Read the settings of a request; tokens are sampled as lm-eval has it.

        ``do_sample: false`` takes the most probable tokens whatever the temperature; without ``do_sample`` a
        temperature above 0 samples; ``do_sample: true`` without a temperature samples at 1.

        Args:
            options: The ``generation_kwargs`` of the task, with those of ``--gen_kwargs``.
            max_gen_toks: The budget of a request without one.

        Raises:
            UserError: For a setting that the engine cannot obey, or a value out of range.
        """
        samples = options.get("do_sample")
        if samples not in (None, True, False):
            raise UserError(f"do_sample: expected true or false, got {samples!r}")
        temperature = _number(options, "temperature", 1.0 if samples else 0.0)
        if samples is not None and not samples:  # false, or 0, as which --gen_kwargs reads it
            temperature = 0.0
        temperature = check_temperature(temperature)
        _check_known(options, is_greedy=temperature == 0)
        top_p = _number(options, "top_p", 1.0) if temperature else 1.0
        if not 0 < top_p <= 1:
            raise UserError(f"top_p: expected a number above 0 and at most 1, got {top_p}")
        return cls(_stop_texts(options), _budget(options, max_gen_toks), temperature, top_p, _seed(options))


def _check_known(options: Mapping[str, Any], is_greedy: bool) -> None:
    for name, value in options.items():
        if name in _KNOWN or (is_greedy and name in _OF_SAMPLING) or value in _WITHOUT_EFFECT.get(name, ()):
            continue
        raise UserError(f"generation_kwargs: expected {', '.join(_KNOWN)}, got {name}={value!r}")


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{name}: expected a number, got {value!r}")
    return float(value)


def whole_number(name: str, value: Any) -> int:
    """Return a setting that is a whole number; lm-eval checks no types.

    Raises:
        UserError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{name}: expected a whole number, got {value!r}")
    return value


def _budget(options: Mapping[str, Any], default: int) -> int:
    name, value = next(
        ((name, options[name]) for name in _BUDGETS if options.get(name) is not None), ("max_gen_toks", default)
    )
    budget = whole_number(name, value)
    check_at_least(1, **{name: budget})
    return budget


def _seed(options: Mapping[str, Any]) -> int | None:
    seed = options.get("seed")
    return None if seed is None else whole_number("seed", seed)


def _stop_texts(options: Mapping[str, Any]) -> tuple[str, ...]:
    until = options.get("until")
    texts = [until] if isinstance(until, str) else [] if until is None else until
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"until: expected a text or a list of texts, got {until!r}")
    return tuple(text for text in texts if text)  # lm-eval passes over empty ones
