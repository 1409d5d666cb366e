"""The contract of a noise strategy: a dialogue between corrupted views and the denoiser."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from dmaxlit.errors import UserError, check_choice
from dmaxlit.noise.objectives import Objective, cross_entropy
from dmaxlit.noise.schedules import AlphaSchedule, LevelDistribution, LinearSchedule, as_level
from dmaxlit.randomness import RowGenerator
from dmaxlit.registry import Registry, class_and_options
from dmaxlit.tokens import CleanBatch, SoftTokens

__all__ = [
    "NOISE",
    "Corruption",
    "FeatureRequest",
    "Level",
    "LogitsPrediction",
    "NoiseStrategy",
    "Prediction",
    "View",
    "Views",
    "dialogue",
]

Level: TypeAlias = float | tuple[float, float] | LevelDistribution


@dataclass(frozen=True)
class View:
    """A corrupted sequence to be denoised, and the positions its loss is taken at.

    Args:
        ids: ``[batch, length]`` token ids; prompt and pad positions must hold their clean ids.
        supervised: ``[batch, length]`` bool, the positions whose clean token is to be predicted. Those of the fill
            (:class:`~dmaxlit.tokens.Role`) have no part in the loss.
        name: Short name for logs (``train/loss_<name>``, a mean over the positions of all views of that name).
        weight: Weight of each position's loss, a number or ``[batch, length]``. A view of weight 0, such as a step of
            a rollout, is evaluated without gradients and dropout and costs no backward pass.
        is_masked: ``[batch, length]`` bool, positions that hold the mask token; None for a view without masks.
        model_filled: ``[batch, length]`` bool, positions that hold a token the model predicted; for diagnostics.
        level: ``[batch, length]`` noise level each position was corrupted at; for diagnostics.
        soft: Soft tokens to feed in place of ``ids`` at some response positions. ``ids`` must hold the tokens that
            they represent.
        objectives: What is summed over the positions to give the loss (:mod:`dmaxlit.noise.objectives`): at least
            one. The default is the cross-entropy to ``x_0``.
        groups: ``[batch, blocks]`` long, not falling along a row: blocks of one number are denoised together. A block
            then attends to those of its group up to itself, as they are in the view, and to the clean blocks of
            earlier groups. A block without response tokens is a group by itself. None: each block is.
        figures: Further figures to be logged, by name: a sum and the number of what was summed, scalar tensors. Names
            have no spaces; ``loss``, ``loss_*``, ``corrected_*``, ``corrupted_*`` and ``rollout_error`` are taken.
    """

    ids: Tensor
    supervised: Tensor
    name: str
    weight: Tensor | float = 1.0
    is_masked: Tensor | None = None
    model_filled: Tensor | None = None
    level: Tensor | None = None
    soft: SoftTokens | None = None
    objectives: tuple[Objective, ...] = (cross_entropy,)
    groups: Tensor | None = None
    figures: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def requires_grad(self) -> bool:
        """Whether the view contributes to the gradient."""
        return isinstance(self.weight, Tensor) or self.weight != 0


@dataclass(frozen=True)
class FeatureRequest:
    """Asks for the hidden states that a frozen copy of the model, as it was when training began, has of a sequence.

    Yielded in place of a view; the answer is ``[batch, length, width]`` float32 without gradients. Each block attends
    to itself and to the clean blocks before it. They are meaningful in blocks with response tokens.

    Args:
        ids: ``[batch, length]`` token ids.
    """

    ids: Tensor


class Prediction(ABC):
    """The denoiser's prediction for a view, at its ``n`` supervised positions in row-major order.

    Args:
        positions: ``[batch, length]`` bool with ``n`` True values.
    """

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions

    @property
    @abstractmethod
    def logits(self) -> Tensor:
        """``[n, V]``, with gradients if the view requires them; detach what becomes input again.

        V is the number of rows of the model's table, at least ``special.vocab_size``. The logits of the mask token and
        of ids from ``special.vocab_size`` on are ``-inf``. With a large vocabulary prefer :meth:`map`, which never
        holds all logits.
        """

    @abstractmethod
    def map(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Return ``function(logits, *values)``, computed without gradients and possibly chunk by chunk.

        Args:
            function: Receives the float32 logits of some positions and the same entries of ``values``; returns one
                entry for each of these positions.
            values: Tensors ``[n, ...]``.
        """

    @abstractmethod
    def sum(self, score: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Return the sum of a score over all positions, a scalar with gradients, possibly computed chunk by chunk.

        Args:
            score: Receives the logits of some positions and the slice of ``0 ... n`` they are; returns their sum.
        """

    @property
    def states(self) -> Tensor:
        """``[n, width]`` what :attr:`head` turns into logits, without gradients: small enough to be kept for later."""
        return self.logits.detach()

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Turns :attr:`states`, or some of them, into logits ``[..., vocab]``."""
        return _unchanged

    def scatter(self, values: Tensor, into: Tensor) -> Tensor:
        """Return a copy of ``into`` (``[batch, length, ...]``), with ``values`` (``[n, ...]``) at the positions."""
        out = into.clone()
        out[self.positions] = values
        return out


def _unchanged(states: Tensor) -> Tensor:
    return states


class LogitsPrediction(Prediction):
    """A prediction whose logits are in memory, for tests and dry runs.

    Args:
        logits: ``[n, vocab]``.
        positions: ``[batch, length]`` bool with ``n`` True values.
    """

    def __init__(self, logits: Tensor, positions: Tensor) -> None:
        super().__init__(positions)
        self._logits = logits

    @property
    def logits(self) -> Tensor:
        """The logits."""
        return self._logits

    def map(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Return ``function(logits, *values)`` without gradients."""
        with torch.no_grad():
            return function(self._logits.detach().float(), *values)

    def sum(self, score: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Return the score of all positions."""
        return score(self._logits, slice(0, self._logits.shape[0]))


#: A view is answered by its :class:`Prediction`, a request for features by a tensor.
Views: TypeAlias = Generator[View | FeatureRequest, Any, None]


def dialogue(
    views: Views, answer: Callable[[View], Prediction], features: Callable[[FeatureRequest], Tensor] | None = None
) -> Iterator[tuple[View, Prediction]]:
    """Evaluate the views of a strategy in order; yield each with its prediction.

    Args:
        views: What :meth:`NoiseStrategy.views` returns.
        answer: Predicts a view.
        features: Answers requests for features.

    Raises:
        UserError: If the strategy asks for features, and ``features`` is None, or yields a view with a loss inside
            ``torch.no_grad()``.
    """
    has_gradients = torch.is_grad_enabled()
    turn = next(views, None)
    while turn is not None:
        reply: Prediction | Tensor
        if isinstance(turn, FeatureRequest):
            if features is None:
                raise UserError("noise: expected a strategy that needs no features of a frozen copy here")
            reply = features(turn)
        else:
            reply = answer(turn)
            if has_gradients and turn.requires_grad and not torch.is_grad_enabled():
                views.close()  # which leaves torch.no_grad()
                raise UserError(
                    f"noise: expected view {turn.name!r} to be yielded outside of torch.no_grad(), it was yielded "
                    "inside, where it would not be trained"
                )
            yield turn, reply
        try:
            turn = views.send(reply)
        except StopIteration:
            return
        del reply  # or its logits would be kept while the next view is predicted


@dataclass(frozen=True)
class Corruption:
    """The response positions that are corrupted, and their noise levels.

    Args:
        positions: ``[batch, length]`` bool.
        level: ``[batch, length]`` level t each position was drawn at.
    """

    positions: Tensor
    level: Tensor


class NoiseStrategy(ABC):
    """Turns a clean batch into one or more corrupted views.

    :meth:`views` is a generator: each :class:`View` it yields is denoised, ``yield`` returns the :class:`Prediction`,
    and the next view may be built from it. The module sums the losses of the views. For training on several ranks the
    number of views must not depend on the data.

    A subclass with further options takes ``**corruption`` and passes it to this constructor; the command line then
    offers the options below as well.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution.
        per: Draw one level for each sequence or for each block.
        stratified: Spread the levels evenly over the rows of an optimiser step (of all ranks and accumulated
            micro-batches), for a lower variance of the loss.
        schedule: Turns a level into a corruption probability ``1 - alpha_t``; linear by default.
    """

    #: Whether all views at level 0 are the clean text; False if only the first one is.
    exact_level: ClassVar[bool] = True
    #: Options under which the level is the only source of corruption; the contract tests set them at level 0.
    level_only: ClassVar[Mapping[str, Any]] = {}
    #: Decoder layer, from 0, after which features are taken; a strategy that yields a :class:`FeatureRequest` sets it.
    feature_layer: int | None = None
    #: What :meth:`corrupt` returns in place of a draw; set on a copy by a strategy that has another one's views.
    corruption: Corruption | None = None

    def __init__(
        self,
        level: Level = 0.75,
        per: Literal["sequence", "block"] = "sequence",
        stratified: bool = False,
        schedule: AlphaSchedule | None = None,
    ) -> None:
        self.level = as_level(level)
        self.per = check_choice("per", per, ("sequence", "block"))
        self.stratified = stratified
        self.schedule = LinearSchedule() if schedule is None else schedule

    def __repr__(self) -> str:
        """Return the class and its options."""
        return class_and_options(self)

    @abstractmethod
    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the corrupted views of ``clean``.

        Args:
            clean: The clean batch.
            generator: The only source of randomness: one stream per row.
        """

    def corrupt(self, clean: CleanBatch, generator: RowGenerator) -> Corruption:
        """Choose each response position independently with probability ``1 - alpha_t``; prompts and pads never.

        Raises:
            UserError: If the constructor of a subclass has not called that of this class.
        """
        if self.corruption is not None:
            return self.corruption
        if not all(hasattr(self, option) for option in ("level", "per", "stratified", "schedule")):
            raise UserError(
                f"noise {type(self).__name__}: expected its __init__ to call super().__init__(), which sets level, "
                "per, stratified and schedule; it did not"
            )
        # One level per sequence or per block.
        blocks = clean.blocks
        columns = clean.num_blocks if self.per == "block" else 1
        u = generator.stratified(columns) if self.stratified else generator.rand(columns)
        t = self.level.at(clean.step).quantile(u)
        level = t[:, blocks] if self.per == "block" else t.expand(-1, clean.ids.shape[1])
        # One decision per position.
        u = generator.rand(clean.ids.shape[1])
        return Corruption((u < self.schedule.noise_rate(level)) & clean.response, level)


_EXPERIMENTAL = ("rollout_k", "soft_on_policy", "stage_consistency")

NOISE: Registry[NoiseStrategy] = Registry(
    "noise strategy", "noise", NoiseStrategy, {name: f"dmaxlit.noise.experimental.{name}" for name in _EXPERIMENTAL}
)
