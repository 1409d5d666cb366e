"""The contract of a noise strategy: a dialogue between corrupted views and the denoiser."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.noise.schedules import AlphaSchedule, LevelDistribution, LinearSchedule, as_level
from dmaxlit.randomness import RowGenerator
from dmaxlit.registry import Registry
from dmaxlit.tokens import CleanBatch, SoftTokens
from dmaxlit.training.chunked_logits import Head, Score, chunked_sum, chunks

__all__ = ["NOISE", "Corruption", "Level", "NoiseStrategy", "Prediction", "View", "Views"]

Level: TypeAlias = float | tuple[float, float] | LevelDistribution


@dataclass(frozen=True)
class View:
    """A corrupted sequence to be denoised, and where its loss is taken.

    Args:
        ids: ``[batch, length]`` token ids; a prompt or pad position must hold its clean id.
        supervised: ``[batch, length]`` bool, the positions whose clean token is to be predicted.
        name: Short name for logs (``train/loss_<name>``).
        weight: Weight of each position's cross-entropy, a number or ``[batch, length]``. A view of weight 0, a step of
            a rollout for instance, is answered without gradients and costs no backward.
        is_masked: ``[batch, length]`` bool, positions that hold the mask token; None for a view without masks.
        model_filled: ``[batch, length]`` bool, positions that hold the model's own guess; for diagnostics.
        level: ``[batch, length]`` noise level each position was corrupted at; for diagnostics.
        soft: Mixtures of tokens to feed in place of ``ids`` at some response positions. ``ids`` there are the tokens
            they stand for.
        entropy_weight: Weight of the entropy, in nats, of each masked position whose top-1 prediction is the clean token: the
            confidence term of CAP (LLaDA2.0, arXiv 2512.15745), which makes right predictions surer.
    """

    ids: Tensor
    supervised: Tensor
    name: str
    weight: Tensor | float = 1.0
    is_masked: Tensor | None = None
    model_filled: Tensor | None = None
    level: Tensor | None = None
    soft: SoftTokens | None = None
    entropy_weight: float = 0.0

    @property
    def requires_grad(self) -> bool:
        """Whether the view has a part in the gradient."""
        return isinstance(self.weight, Tensor) or self.weight != 0 or self.entropy_weight != 0


class Prediction:
    """The denoiser's answer to a view, at its ``n`` supervised positions in row-major order.

    Args:
        hidden: ``[n, width]`` hidden states, or the logits themselves without a ``head``.
        positions: ``[batch, length]`` bool with ``n`` True values.
        head: Turns hidden states into logits.
    """

    def __init__(self, hidden: Tensor, positions: Tensor, head: Head | None = None) -> None:
        self.positions = positions
        self._hidden = hidden
        self._head = head
        self._trains = torch.is_grad_enabled()  # the answer to a view that is not trained on has no gradients later

    @cached_property
    def logits(self) -> Tensor:
        """``[n, vocab]``, with gradients if the view is trained on; detach what becomes input again.

        The mask token's is ``-inf``. With a large vocabulary prefer :meth:`map`, which never holds all of them.
        """
        with torch.set_grad_enabled(self._trains):
            return self._hidden if self._head is None else self._head(self._hidden)

    def map(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """``function(logits, *rows)``, piece by piece and without gradients.

        Args:
            function: Gets the logits of some positions and the same entries of ``rows``; returns an entry for each.
            rows: Tensors ``[n, ...]``.
        """
        with torch.no_grad():
            parts = self._pieces()
            if len(parts) == 1:
                return function(self.logits.detach(), *rows)
            assert self._head is not None, "logits that are there are one piece"
            done = [function(self._head(self._hidden[part]), *(row[part] for row in rows)) for part in parts]
            return torch.cat(done)

    def sum(self, score: Score) -> Tensor:
        """``score(logits, all positions)``, a scalar with gradients, piece by piece if there is much of it."""
        with torch.set_grad_enabled(self._trains and torch.is_grad_enabled()):
            if self._head is None or len(self._pieces()) == 1:
                return score(self.logits, slice(0, self._hidden.shape[0]))
            return chunked_sum(score, self._hidden, self._head)

    def scatter(self, tokens: Tensor, into: Tensor) -> Tensor:
        """A copy of ``into`` (``[batch, length]``) with ``tokens`` (``[n]``) at the predicted positions."""
        out = into.clone()
        out[self.positions] = tokens
        return out

    def _pieces(self) -> list[slice]:
        return [slice(0, None)] if self._head is None else chunks(self._hidden, self._head.vocab_size)


Views: TypeAlias = Generator[View, Prediction, None]


@dataclass(frozen=True)
class Corruption:
    """Which response positions are corrupted, and how strongly.

    Args:
        positions: ``[batch, length]`` bool.
        level: ``[batch, length]`` level t each position was drawn at.
    """

    positions: Tensor
    level: Tensor


class NoiseStrategy(ABC):
    """Turns a clean batch into one or more corrupted views.

    :meth:`views` is a generator: it yields a :class:`View`, is answered with the denoiser's :class:`Prediction` of that
    view, and may build the next view from it. The module sums the views' losses. For training on several ranks the
    number of views must not depend on the data.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution.
        per: Draw one level for each sequence or for each block.
        stratified: Spread the levels evenly over the global batch, for a lower variance of the loss.
        schedule: Turns a level into a corruption probability ``1 - alpha_t``.
    """

    def __init__(
        self,
        level: Level = 0.75,
        per: Literal["sequence", "block"] = "sequence",
        stratified: bool = False,
        schedule: AlphaSchedule | None = None,
    ) -> None:
        if per not in ("sequence", "block"):
            raise UserError(f"per: expected 'sequence' or 'block', got {per!r}")
        self.level = as_level(level)
        self.per = per
        self.stratified = stratified
        self.schedule = LinearSchedule() if schedule is None else schedule

    @abstractmethod
    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the corrupted views of ``clean``.

        Args:
            clean: The clean batch.
            generator: The only source of randomness: one stream per row.
        """

    def corrupt(self, clean: CleanBatch, generator: RowGenerator) -> Corruption:
        """Choose each response position independently with probability ``1 - alpha_t``; prompts and pads never."""
        blocks = clean.blocks
        columns = int(blocks[-1]) + 1 if self.per == "block" else 1
        u = generator.stratified(columns) if self.stratified else generator.rand(columns)
        t = self.level.at(clean.step).quantile(u)
        level = t[:, blocks] if self.per == "block" else t.expand(-1, clean.ids.shape[1])
        draw = generator.rand(clean.ids.shape[1])
        return Corruption((draw < self.schedule.noise_rate(level)) & clean.response, level)

    @staticmethod
    def masked_ids(clean: CleanBatch, corruption: Corruption) -> Tensor:
        """``x_t``: the clean ids with the mask token at the corrupted positions, ``[batch, length]``."""
        return clean.with_masks(corruption.positions)


_EXPERIMENTAL = ("rollout_k", "soft_on_policy")

NOISE: Registry[NoiseStrategy] = Registry(
    "noise strategy", "noise", NoiseStrategy, {name: f"dmaxlit.noise.experimental.{name}" for name in _EXPERIMENTAL}
)
