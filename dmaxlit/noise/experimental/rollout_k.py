"""On-policy training on the states of a decoder: several steps of rollout instead of OPUT's one. Not in the paper."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, Sampling
from dmaxlit.decoding.factory import make_decoder
from dmaxlit.decoding.joint import JointDecoder
from dmaxlit.errors import UserError, check_at_least, check_fraction, check_temperature
from dmaxlit.noise.base import NOISE, Corruption, Level, NoiseStrategy, Prediction, View, Views
from dmaxlit.noise.rollout import check_weights, teacher_forced
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["RolloutKNoise"]

_MAX_LOGITS = 2**27  # logits in one call of the decoder; with a large vocabulary the blocks are split


@NOISE.register("rollout_k")
class RolloutKNoise(NoiseStrategy):
    """Train on the masked view, and on the result of a random number of decoder steps from it.

    Every block of ``x_t^(m)``, teacher-forced on the clean blocks before it, is decoded for ``n ~ U{1 ... steps}``
    forwards, or until it has converged. Its state (tokens, masks and soft tokens) is then the predicted view:
    ``x^(p) = step^n(x_t^(m))``, ``loss = L(x_t^(m)) + L(x^(p))``, cross-entropy to ``x_0`` over all response positions
    of both views. The masked forward is the first step; the other ``steps - 1`` run without gradients, so that a
    training step costs OPUT's passes and ``steps - 1`` forwards.

    Args:
        level: Noise level t in [0, 1] of the masked view: a number, a [low, high] range, or a LevelDistribution. At 1
            the rollout starts from the same state as decoding.
        steps: Largest number of steps of the rollout (k), at least 1.
        decoder: Registered name of the decoder; it must not read extra blocks, or ask an auxiliary model.
        decoder_options: Its options.
        temperature: Temperature of the decoder's tokens, at least 0; 0 takes the most probable ones.
        clean_fraction: Share of the decided positions that hold the clean token instead, in [0, 1]; in a soft token
            it takes the confidence of the predicted one. See ``soft_on_policy``.
        masked_weight: Weight of the masked view's loss, at least 0.
        predicted_weight: Weight of the predicted view's loss, at least 0.
    """

    exact_level = False  # decoders such as SPD predict visible tokens again

    def __init__(
        self,
        level: Level = 0.75,
        *,
        steps: int = 3,
        decoder: str = "spd",
        decoder_options: dict[str, Any] | None = None,
        temperature: float = 0.0,
        clean_fraction: float = 0.25,
        masked_weight: float = 1.0,
        predicted_weight: float = 1.0,
        **corruption: Any,
    ) -> None:
        super().__init__(level, **corruption)
        check_at_least(1, steps=steps)
        check_temperature(temperature)
        check_weights(masked_weight=masked_weight, predicted_weight=predicted_weight)
        self.decoder = make_decoder(decoder, **(decoder_options or {}))
        if self.decoder.extra_blocks:
            raise UserError(
                f"decoder: expected one that reads the block alone, got {decoder!r}, which reads extra blocks too"
            )
        if isinstance(self.decoder, JointDecoder):
            raise UserError(f"decoder: expected one that asks no auxiliary model, got {decoder!r}")
        self.steps = steps
        self.temperature = temperature
        self.clean_fraction = check_fraction("clean_fraction", clean_fraction)
        self.masked_weight = masked_weight
        self.predicted_weight = predicted_weight

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view, the rollout's views without gradients, and the view of its last state."""
        corruption = self.corrupt(clean, generator)
        corrupted, level = corruption.positions, corruption.level
        ids = clean.with_masks(corrupted)
        prediction = yield View(ids, clean.response, "masked", self.masked_weight, is_masked=corrupted, level=level)

        num_steps = 1 + (generator.rand(clean.num_blocks) * self.steps).long().reshape(-1)
        state = self._start(clean, corrupted, generator)
        for step in range(1, self.steps + 1):
            state = self._step(clean, state, prediction, (step <= num_steps) & ~state.converged)
            del prediction  # or its logits would be kept while the next view is predicted
            view = self._view(clean, corruption, state)
            if step < self.steps:
                prediction = yield replace(view, name="rollout", weight=0.0)  # noqa: F841  # the next step's
        yield self._with_clean_tokens(clean, view, generator)

    def _start(self, clean: CleanBatch, masked: Tensor, generator: RowGenerator) -> BlockState:
        """Return the decoder's initial state of every block, with the visible tokens decided."""
        ids, editable, masked = (_to_blocks(tensor, clean) for tensor in (clean.ids, clean.response, masked))
        state = self.decoder.start(ids, editable, clean.special)
        sampling = None
        if self.temperature > 0:
            u = _to_blocks(generator.rand(clean.ids.shape[1]), clean)
            ones = torch.ones_like(u[:, 0])
            sampling = Sampling(u, ones * self.temperature, ones)
        return replace(state, ids=torch.where(masked, state.ids, ids), masked=masked, sampling=sampling)

    def _step(self, clean: CleanBatch, state: BlockState, prediction: Prediction, active: Tensor) -> BlockState:
        """Return the state after one step of the active blocks (``[batch * blocks]`` bool)."""
        logits = prediction.logits.detach()
        # Index of each position's logits. Prompts and pads get arbitrary ones: they are not editable.
        index = _to_blocks((prediction.positions.flatten().cumsum(0) - 1).clamp_min(0), clean)
        blocks = (active & state.editable.any(1)).nonzero().squeeze(1)
        chunk_size = max(1, _MAX_LOGITS // (clean.block_length * logits.shape[-1]))
        for chunk in torch.split(blocks, chunk_size):
            after = self.decoder.step(state.select(chunk), logits[index[chunk]], clean.special)
            state = state.assign(chunk, after)
        return state

    def _view(self, clean: CleanBatch, corruption: Corruption, state: BlockState) -> View:
        """Return the view of a decoder's state."""
        masked, soft = _to_sequences(state.masked, clean), state.soft
        if soft is not None:
            soft = replace(
                soft,
                ids=_to_sequences(soft.ids, clean),
                weights=_to_sequences(soft.weights, clean),
                where=_to_sequences(soft.where, clean),
            )
        return View(
            _to_sequences(state.ids, clean),
            clean.response,
            "predicted",
            self.predicted_weight,
            is_masked=masked,
            model_filled=corruption.positions & ~masked,
            level=corruption.level,
            soft=soft,
        )

    def _with_clean_tokens(self, clean: CleanBatch, view: View, generator: RowGenerator) -> View:
        """Return the view with the clean token at a random share of the decided positions."""
        assert view.model_filled is not None, "set by _view"
        forced, soft = teacher_forced(view.model_filled, self.clean_fraction, generator), view.soft
        if soft is not None:
            tokens = torch.where(forced, clean.ids, soft.ids[..., 0]).unsqueeze(-1)
            soft = replace(soft, ids=torch.cat([tokens, soft.ids[..., 1:]], -1))
        ids = torch.where(forced, clean.ids, view.ids)
        return replace(view, ids=ids, model_filled=view.model_filled & ~forced, soft=soft)


def _to_blocks(tensor: Tensor, clean: CleanBatch) -> Tensor:
    """Reshape ``[batch, length]`` to ``[batch * blocks, block length]``."""
    return tensor.reshape(-1, clean.block_length)


def _to_sequences(tensor: Tensor, clean: CleanBatch) -> Tensor:
    """Reshape ``[batch * blocks, block length, ...]`` to ``[batch, length, ...]``."""
    return tensor.reshape(*clean.ids.shape, *tensor.shape[2:])
