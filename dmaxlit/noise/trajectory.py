"""How decoding would reveal a known text: the trajectory that some strategies distil into its own earlier steps."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmaxlit.errors import check_at_least, check_fraction
from dmaxlit.noise.base import Corruption, View
from dmaxlit.tokens import CleanBatch

_ROUNDED = 1024.0  # as decoders rank: positions that are alike are not ordered by rounding errors


@dataclass(frozen=True)
class Trajectory:
    """The forward at which each position is decided, and the prediction that decides it.

    Args:
        decided: ``[batch, length]`` long, forwards of the block before, from 0; -1 where nothing was masked.
        states: ``[batch, length, width]`` states of that prediction (:attr:`~dmaxlit.noise.Prediction.states`).
        head: Turns them into logits.
        block_length: Tokens of a block.
    """

    decided: Tensor
    states: Tensor
    head: Callable[[Tensor], Tensor]
    block_length: int

    @property
    def forwards(self) -> Tensor:
        """``[batch, blocks]`` forwards until the block is decided; 0 where nothing was masked."""
        return self.decided.view(self.decided.shape[0], -1, self.block_length).amax(-1) + 1

    @property
    def figures(self) -> dict[str, tuple[Tensor, Tensor]]:
        """``trajectory_forwards``: sum and number of blocks, for the mean number of forwards of a block."""
        forwards = self.forwards
        return {"trajectory_forwards": (forwards.sum(), (forwards > 0).sum())}

    def masked(self, forward: Tensor) -> Tensor:
        """Return the positions that are still masked, ``[batch, length]`` bool.

        Args:
            forward: ``[batch, blocks]`` number of forwards made in each block.
        """
        return self.decided >= forward.repeat_interleave(self.block_length, 1)


def replay(
    clean: CleanBatch, corruption: Corruption, threshold: float, steps: int | None
) -> Generator[View, Any, Trajectory]:
    """Yield the states of threshold decoding without gradients, all blocks side by side; return the trajectory.

    Each block follows the clean blocks before it. A forward decides the masked positions whose highest probability is
    above the threshold, at least one, and shows the clean token there. For a text that the model has written by this
    rule these are the states it went through.

    Args:
        clean: The clean batch.
        corruption: The positions that are masked at the beginning.
        threshold: Confidence, in [0, 1].
        steps: Number of forwards; the last one decides whatever is left. None: as many as a block may need.
    """
    masked, decided = corruption.positions, torch.full_like(clean.ids, -1)
    nowhere = torch.full(masked.shape, -torch.inf, dtype=torch.float32, device=masked.device)
    count = clean.block_length if steps is None else min(steps, clean.block_length)
    kept: Tensor | None = None
    for step in range(count):
        prediction = yield View(
            clean.with_masks(masked), masked, "trajectory", 0.0, is_masked=masked, level=corruption.level
        )
        log_odds = prediction.scatter(prediction.map(_log_odds), into=nowhere)
        revealed = masked if step == count - 1 else _revealed(masked, log_odds, threshold, clean.block_length)
        decided = torch.where(revealed, step, decided)
        states, head = prediction.states, prediction.head
        if kept is None:
            kept = states.new_zeros(*masked.shape, states.shape[-1])
        kept = torch.where(revealed.unsqueeze(-1), prediction.scatter(states, into=kept), kept)
        masked = masked & ~revealed
        del prediction, states  # or its logits would be kept while the next view is predicted
    assert kept is not None, "there is at least one step"
    return Trajectory(decided, kept, head, clean.block_length)


def check_replay(threshold: float, steps: int | None) -> None:
    """Check the arguments of :func:`replay`.

    Raises:
        UserError: If one is out of range.
    """
    check_fraction("threshold", threshold)
    check_at_least(1, steps=steps)


def _log_odds(logits: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` of the most probable token of each position, ``[n]``, given ``[n, V]`` logits."""
    top, token = logits.max(-1, keepdim=True)
    return (top - logits.scatter(-1, token, -torch.inf).logsumexp(-1, keepdim=True)).squeeze(-1)


def _revealed(masked: Tensor, log_odds: Tensor, threshold: float, block_length: int) -> Tensor:
    """Return the masked positions above the threshold, or the most confident one of their block."""
    blocks, score = (values.reshape(-1, block_length) for values in (masked, log_odds))
    confident = blocks & (score.sigmoid() > threshold)
    best = (score.masked_fill(~blocks, -torch.inf) * _ROUNDED).round().argmax(1, keepdim=True)
    one = torch.zeros_like(blocks).scatter_(1, best, True) & blocks
    return torch.where(confident.any(1, keepdim=True), confident, one).view_as(masked)
