"""Who answers the prompts of an evaluation: a diffusion model with one decoder, or a baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from dmaxlit.data.encoding import Prompt
from dmaxlit.engine import DecodeSettings, Generation, Trace
from dmaxlit.evaluation.decoder_entries import DecoderEntry
from dmaxlit.evaluation.evaluate import WARM_UP_FORWARDS
from dmaxlit.evaluation.limits import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dmaxlit.engine.trace import RowTrace
    from dmaxlit.module import DMaxModule


#: Receives the answer to a prompt as soon as it is finished: its index among the prompts that were passed, the answer,
#: and the record of its forwards if that is wanted.
Take: TypeAlias = "Callable[[int, Generation, RowTrace | None], object]"


class Answerer(ABC):
    """A model with all settings of how it answers: one row of a table.

    Attributes:
        title: Its name in tables and files.
        line: Name of the curve that it is a point of.
        threshold: Value of the option that varies along the curve, or None.
        name: Name of the decoder.
        options: The decoder's options, as JSON values.
    """

    title: str
    line: str
    threshold: float | None
    name: str
    options: dict[str, Any]

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the model."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of prompts and answers."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Prompts that share a forward."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what the answers depend on besides model, prompts, limits and sampling, as JSON values."""

    @abstractmethod
    def warm_up(self, prompts: Sequence[Prompt], limits: Limits) -> None:
        """Answer the first prompts for a few forwards, so that one-off costs are not timed.

        Args:
            prompts: The prompts, the longest first.
            limits: What ends an answer.
        """

    @abstractmethod
    def answer(self, prompts: Sequence[Prompt], indices: Sequence[int], limits: Limits, take: Take) -> None:
        """Answer prompts.

        Args:
            prompts: The prompts.
            indices: Index of each among all prompts of the task. Samples depend on it.
            limits: What ends an answer.
            take: Called with each answer.
        """


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: 0 takes the most probable tokens.
        top_p: In (0, 1]; tokens are sampled from the smallest set with that probability.
        seed: Seed of the samples.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class DiffusionAnswerer(Answerer):
    """A diffusion model with one decoder.

    Args:
        module: The model.
        entry: The decoder.
        batch_size: Prompts that share a forward.
        sampling: How tokens are drawn.
        compile: Compile the forwards.
        trace: Pass on the record of every forward with each answer.

    Raises:
        UserError: For a setting out of range.
    """

    def __init__(
        self,
        module: DMaxModule,
        entry: DecoderEntry,
        batch_size: int = 64,
        sampling: Sampling | None = None,
        compile: bool = False,
        trace: bool = False,
    ) -> None:
        self.title, self.line, self.threshold = entry.title, entry.line, entry.threshold
        self.name, self.options = entry.spec.name, dict(entry.spec.options)
        self._module, self._spec, self._trace = module, entry.spec, trace
        sampled = asdict(sampling or Sampling())
        self._settings = entry.spec.settings(batch_size=batch_size, compile=compile, **sampled)
        self._settings.make_engine(module.backbone)  # refuses settings out of range

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._module.backbone.device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._module.tokenizer

    @property
    def batch_size(self) -> int:
        """Prompts that share a forward."""
        return self._settings.batch_size

    def identity(self) -> dict[str, Any]:
        """Return the decoder and its options, and its window if it has one of several blocks."""
        return self._spec.identity()

    def warm_up(self, prompts: Sequence[Prompt], limits: Limits) -> None:
        """Run a few forwards of the first batch."""
        settings = replace(self._limited(limits), max_forwards=WARM_UP_FORWARDS)
        self._module.generate_batch(list(prompts[: self.batch_size]), settings)

    def answer(self, prompts: Sequence[Prompt], indices: Sequence[int], limits: Limits, take: Take) -> None:
        """Decode prompts; see :meth:`Answerer.answer`."""
        trace = Trace() if self._trace else None

        def pass_on(index: int, answer: Generation) -> None:
            take(index, answer, None if trace is None else trace.rows.pop(index))

        self._module.generate_batch(list(prompts), self._limited(limits), indices, trace=trace, on_response=pass_on)

    def _limited(self, limits: Limits) -> DecodeSettings:
        return replace(self._settings, max_new_tokens=limits.max_new_tokens, stop=limits.stop)
