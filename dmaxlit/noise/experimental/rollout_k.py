"""On-policy training on the states a decoder goes through: several steps of rollout instead of OPUT's one. Ours."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, Sampling
from dmaxlit.decoding.factory import make_decoder
from dmaxlit.errors import UserError, check_fraction
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, Prediction, View, Views
from dmaxlit.noise.rollout import check_weights, teacher_forced
from dmaxlit.noise.schedules import AlphaSchedule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, SoftTokens

__all__ = ["RolloutKNoise"]

_MAX_LOGITS = 2**27  # logits that one call of a decoder works on: the blocks of a large vocabulary go in parts


@NOISE.register("rollout_k")
class RolloutKNoise(NoiseStrategy):
    """Train on the masked view, and on what a decoder makes of it in a random number of its own steps.

    Every block of ``x_t^(m)``, teacher-forced on the clean blocks before it, is decoded for ``n ~ U{1 ... steps}``
    forwards, or until it has converged. The state it is then in, tokens, masks and mixtures, is the predicted view:
    ``x^(p) = step^n(x_t^(m))``, ``loss = L(x_t^(m)) + L(x^(p))``, cross-entropy to ``x_0`` over all response positions
    of both views. The masked forward is the first step; the ``steps - 1`` others run without gradients, so that a
    training step costs OPUT's passes and ``steps - 1`` forwards.

    Args:
        level: Noise level t in [0, 1] of the masked view: a number, a [low, high] range, or a LevelDistribution. At 1
            the rollout begins where decoding does.
        per: Draw one level for each sequence or for each block.
        stratified: Spread the levels evenly over the global batch.
        schedule: Turns a level into a masking probability ``1 - alpha_t``; linear by default.
        steps: Most steps of the rollout (k), at least 1.
        decoder: Registered name of the decoder; one that reads further extra_blocks of a block will not do.
        decoder_options: Its options.
        temperature: Of the decoder's tokens, at least 0; 0 takes the most probable ones.
        clean_fraction: Share of the decided positions that show the clean token instead, where it is a mixture at the same
            confidence, in [0, 1]; see ``soft_on_policy``.
        masked_weight: Weight of the masked view's loss, at least 0.
        predicted_weight: Weight of the predicted view's loss, at least 0.
    """

    def __init__(
        self,
        level: Level = 0.75,
        per: Literal["sequence", "block"] = "sequence",
        stratified: bool = False,
        schedule: AlphaSchedule | None = None,
        steps: int = 3,
        decoder: str = "spd",
        decoder_options: dict[str, Any] | None = None,
        temperature: float = 0.0,
        clean_fraction: float = 0.25,
        masked_weight: float = 1.0,
        predicted_weight: float = 1.0,
    ) -> None:
        super().__init__(level, per, stratified, schedule)
        if steps < 1:
            raise UserError(f"steps: expected at least 1, got {steps}")
        if temperature < 0:
            raise UserError(f"temperature: expected at least 0, got {temperature}")
        check_weights(masked_weight=masked_weight, predicted_weight=predicted_weight)
        self.decoder = make_decoder(decoder, **(decoder_options or {}))
        if self.decoder.extra_blocks:
            raise UserError(
                f"decoder: expected one that reads the block alone, got {decoder!r}, which reads extra_blocks too"
            )
        self.steps = steps
        self.temperature = temperature
        self.clean_fraction = check_fraction("clean_fraction", clean_fraction)
        self.masked_weight = masked_weight
        self.predicted_weight = predicted_weight

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view, the views of the rollout that are not trained on, and the one it ends with."""
        corruption = self.corrupt(clean, generator)
        prediction = yield View(
            self.masked_ids(clean, corruption),
            clean.response,
            "masked",
            self.masked_weight,
            is_masked=corruption.positions,
            level=corruption.level,
        )
        blocks = int(clean.blocks[-1]) + 1
        last = 1 + (generator.rand(blocks) * self.steps).long().reshape(-1)
        state = self._start(clean, corruption.positions, generator)
        for step in range(1, self.steps + 1):
            state = self._step(clean, state, prediction, (step <= last) & ~state.converged)
            ids, masked, soft = (_rows(part, clean) for part in (state.ids, state.masked, state.soft))
            view = View(
                ids,
                clean.response,
                "predicted",
                self.predicted_weight,
                is_masked=masked,
                model_filled=corruption.positions & ~masked,
                level=corruption.level,
                soft=soft,
            )
            if step < self.steps:
                prediction = yield replace(view, name="rollout", weight=0.0)
        decided = corruption.positions & ~masked
        shown = teacher_forced(decided, self.clean_fraction, generator)
        if soft is not None:
            tokens = torch.where(shown, clean.ids, soft.ids[..., 0]).unsqueeze(-1)
            soft = replace(soft, ids=torch.cat([tokens, soft.ids[..., 1:]], -1))
        yield replace(view, ids=torch.where(shown, clean.ids, ids), model_filled=decided & ~shown, soft=soft)

    def _start(self, clean: CleanBatch, masked: Tensor, generator: RowGenerator) -> BlockState:
        """The decoder's state of every block, with the visible tokens given."""
        ids, editable, masked = (_blocks(part, clean) for part in (clean.ids, clean.response, masked))
        state = self.decoder.start(ids, editable, clean.special)
        sampling = None
        if self.temperature > 0:
            draws = _blocks(generator.rand(clean.ids.shape[1]), clean)
            every = torch.ones_like(draws[:, 0])
            sampling = Sampling(draws, every * self.temperature, every)
        return replace(state, ids=torch.where(masked, state.ids, ids), masked=masked, sampling=sampling)

    def _step(self, clean: CleanBatch, state: BlockState, prediction: Prediction, going_on: Tensor) -> BlockState:
        """The state after one step of the blocks that go on (``[batch * blocks]`` bool)."""
        logits = prediction.logits.detach()
        # Row of the logits for each position; what prompts and pads get does not matter, they are not editable.
        index = _blocks((prediction.positions.flatten().cumsum(0) - 1).clamp_min(0), clean)
        rows = (going_on & state.editable.any(1)).nonzero().squeeze(1)
        at_once = max(1, _MAX_LOGITS // (clean.block_length * logits.shape[-1]))
        for part in torch.split(rows, at_once):
            after = self.decoder.step(state.select(part), logits[index[part]], clean.special)
            state = state.assign(part, after)
        return state


def _blocks(tensor: Tensor, clean: CleanBatch) -> Tensor:
    """From ``[batch, length]`` to one block a row, ``[batch * blocks, block length]``."""
    return tensor.reshape(-1, clean.block_length)


def _rows(part: Any, clean: CleanBatch) -> Any:
    """Back from blocks to rows, ``[batch, length, ...]``, for a tensor or mixtures."""
    if isinstance(part, SoftTokens):
        return SoftTokens(_rows(part.ids, clean), _rows(part.weights, clean), _rows(part.where, clean))
    return None if part is None else part.reshape(*clean.ids.shape, *part.shape[2:])
