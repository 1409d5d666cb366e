"""Evaluate a model: decode examples with one decoder and check the answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.backbone.formats.judged import is_line
from dmaxlit.constructors import constructor_options
from dmaxlit.data.encoding import encode_prompts
from dmaxlit.decoding import DECODERS, make_decoder
from dmaxlit.decoding.admission import make_admission
from dmaxlit.engine import DecodeSettings, Generation
from dmaxlit.engine.window import check_policy, check_window
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.limits import Limits
from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.metrics import DecodeMeter
from dmaxlit.tasks import Example
from dmaxlit.tasks.stored import StoredTaskError

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule

_SWEPT_BY_DEFAULT = ("tau_dec", "threshold")
#: Forwards on the first batch before time is measured.
WARM_UP_FORWARDS = 4
_DEFAULT_BUDGET = 256


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder with its options.

    Args:
        name: Registered name, for instance ``spd``.
        options: Options of its constructor.
        label: Name of the decoder in tags and tables. Default: the registered name.
        sweep: The option that an accuracy-TPF curve varies. Default: ``tau_dec`` or ``threshold``, if it has one.
        check_decoder: Check what a decoder of your own returns in the first forwards.
        window: Most blocks of a prompt that are open at once.
        admission: Registered name of the policy that says when a window takes in the next block.
        admission_options: Its options.

    Raises:
        UserError: For an unknown name or option, an option out of range, or a policy without a window.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    sweep: str | None = None
    check_decoder: bool = True
    window: int = 1
    admission: str = "progress"
    admission_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_window(self.window, make_decoder(self.name, **self.options))
        make_admission(self.admission, **self.admission_options)
        check_policy(self.window, self.admission, self.admission_options)
        if self.label is not None and not self.label.strip():
            raise UserError(f"label: expected a name for decoder {self.name!r}, got {self.label!r}")
        if self.label is not None and not is_line(self.label):
            raise UserError(f"label: expected a line without | ` < and >, got {self.label!r:.120}")
        swept_option(self.name, self.sweep)  # refuses an unknown one

    @property
    def tag(self) -> str:
        """The label, or the name."""
        return self.label or self.name

    @property
    def title(self) -> str:
        """The label, or the name with its options."""
        return self.label or self.settings().title

    @property
    def swept(self) -> str | None:
        """The option that a curve varies, or None if there is none."""
        return swept_option(self.name, self.sweep)

    def at(self, threshold: float) -> DecoderSpec:
        """Return this decoder with its swept option at ``threshold``.

        Raises:
            UserError: If it has no such option, or the value is out of range.
        """
        if self.swept is None:
            raise UserError(f"sweep: decoder {self.name!r} has no threshold to vary")
        return replace(self, options={**self.options, self.swept: threshold})

    def settings(self, max_new_tokens: int = _DEFAULT_BUDGET, batch_size: int = 64, **others: Any) -> DecodeSettings:
        """Return the settings that decode with this decoder; see :class:`~dmaxlit.engine.DecodeSettings`.

        Args:
            max_new_tokens: Budget of tokens for each answer.
            batch_size: Prompts that share a forward.
            others: Further settings that are not the decoder's, such as the temperature.
        """
        return DecodeSettings(
            self.name,
            self.options,
            max_new_tokens,
            batch_size,
            check_decoder=self.check_decoder,
            window=self.window,
            admission=self.admission,
            admission_options=self.admission_options,
            **others,
        )

    def identity(self) -> dict[str, Any]:
        """Return the decoder and its options, and its window if it has one of several blocks, as JSON values."""
        names = ("decoder", "window", "admission", "admission_options")
        identity = self.settings().identity()
        return {name: identity[name] for name in names if name in identity} | {"options": dict(self.options)}


def swept_option(decoder: str, sweep: str | None = None) -> str | None:
    """Return the option of a decoder that a curve varies, or None if there is none.

    Args:
        decoder: Registered name of the decoder.
        sweep: The option. Default: ``tau_dec`` or ``threshold``, if it has one.

    Raises:
        UserError: For an unknown decoder, or one without that option.
    """
    options = constructor_options(DECODERS.get(decoder))
    if sweep is not None and sweep not in options:
        raise UserError(f"sweep: decoder {decoder!r} has no option {sweep!r}; known: {', '.join(options)}")
    return sweep or next((name for name in _SWEPT_BY_DEFAULT if name in options), None)


def evaluate(
    module: DMaxModule,
    examples: Sequence[Example],
    decoder: str = "spd",
    options: dict[str, Any] | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    progress: bool = False,
    stop: Sequence[str] = (),
) -> DecodeResult:
    """Decode examples and check the answers, in this process alone.

    The time is that of the whole call of ``generate_batch``, after a short warm-up on the first batch.

    Args:
        module: The model.
        examples: Prompts with their checkers.
        decoder: Registered name of the decoder.
        options: The decoder's options.
        max_new_tokens: Budget of tokens for each answer. Default: the budget of the task the model was trained on.
        batch_size: Prompts decoded together.
        progress: Show a progress bar.
        stop: Texts that end an answer, such as those of the examples' task.

    Raises:
        UserError: For no examples, an unknown decoder or option, or a prompt longer than the context.
    """
    if not examples:
        raise UserError("examples: expected at least one, got an empty list")
    spec = DecoderSpec(decoder, dict(options or {}))
    limits = Limits(default_budget(module) if max_new_tokens is None else max_new_tokens, tuple(stop))
    meter = DecodeMeter(module.backbone.block_length)
    warm_up(module, examples[:batch_size], spec, limits)
    count_answers(meter, module, examples, spec, limits, batch_size, progress)
    return summarize(meter, spec)


def default_budget(module: DMaxModule) -> int:
    """Return the token budget for an answer: that of the task the model was trained on, or 256.

    If the task is not built because only a checkpoint names it, the budget is the one in the checkpoint's options.
    """
    try:
        task = module.task()
    except StoredTaskError as error:
        stored = module.task_options.get("max_new_tokens")
        if isinstance(stored, int) and not isinstance(stored, bool) and stored >= 1:
            return stored
        rank_zero_warn(f"max_new_tokens: {_DEFAULT_BUDGET} by default, because of {error}", category=DMaxWarning)
        return _DEFAULT_BUDGET
    return _DEFAULT_BUDGET if task is None else task.max_new_tokens


def warm_up(module: DMaxModule, examples: Sequence[Example], spec: DecoderSpec, limits: Limits) -> None:
    """Run a few forwards of one batch, so that one-off costs are not timed."""
    prompts = [example.prompt for example in examples]
    if prompts:
        module.generate_batch(
            prompts, spec.settings(**vars(limits), batch_size=len(prompts), max_forwards=WARM_UP_FORWARDS)
        )


def count_answers(
    meter: DecodeMeter,
    module: DMaxModule,
    examples: Sequence[Example],
    spec: DecoderSpec,
    limits: Limits,
    batch_size: int = 64,
    progress: bool | Callable[[int], object] = False,
) -> list[tuple[Generation, bool]]:
    """Decode examples, timed, and add them to a meter.

    Args:
        meter: The meter.
        module: The model.
        examples: Prompts with their checkers; may be empty.
        spec: The decoder.
        limits: What ends an answer.
        batch_size: Prompts decoded together.
        progress: Show a progress bar, or call this after each forward with the number of answers it finished.

    Returns:
        Each answer and whether it is right.
    """
    if not examples:
        return []
    prompts = [example.prompt for example in examples]
    device = module.backbone.device
    begin = device_time(device)
    settings = spec.settings(**vars(limits), batch_size=batch_size)
    answers = module.generate_batch(prompts, settings, progress=progress)
    seconds = device_time(device) - begin
    right = [example.check(answer.text) for example, answer in zip(examples, answers, strict=True)]
    meter.update(answers, right, [len(ids) for ids in encode_prompts(module.tokenizer, prompts)], seconds)
    return list(zip(answers, right, strict=True))


def summarize(meter: DecodeMeter, spec: DecoderSpec) -> DecodeResult:
    """Return the result of all ranks from a meter. Every rank must call it."""
    right, answers = meter.accuracy.counts()
    tokens, forwards = meter.tpf.counts()
    per_answer, _ = meter.published.counts()
    blocks = meter.ceiling.counts()[1]
    seconds = meter.tps.counts()[1]
    low, high = meter.tpf_interval.bounds()
    return DecodeResult(
        decoder=spec.name,
        options=dict(spec.options),
        num_examples=int(answers),
        accuracy=_ratio(right, answers),
        tpf=_ratio(tokens, forwards),
        tpf_low=low,
        tpf_high=high,
        tpf_published=_ratio(per_answer, answers),
        tpf_ceiling=_ratio(tokens, blocks),
        forwards_per_answer=_ratio(forwards, answers),
        tokens_per_second=_ratio(tokens, seconds),
        finished=_ratio(*meter.finished.counts()),
        blocks_at_step_limit=int(meter.hit_step_limit.counts()[0]),
        blocks=int(blocks),
        seconds=seconds,
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def device_time(device: torch.device) -> float:
    """Return the time in seconds, once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
