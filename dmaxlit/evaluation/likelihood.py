"""The likelihood of a continuation under a block-diffusion model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.training_forward import TrainingForward
from dmaxlit.data.encoding import whole_blocks
from dmaxlit.decoding.proposal import argmax_proposal, descending_rank
from dmaxlit.randomness import stable_seed
from dmaxlit.tokens import CleanBatch, Role

__all__ = ["Continuation", "Likelihood"]

_CHUNK = 2**25  # logits computed at a time


@dataclass(frozen=True)
class Continuation:
    """Tokens to score, and those before them.

    Args:
        context: Token ids before; may be empty.
        tokens: Token ids to score, at least one.
    """

    context: list[int]
    tokens: list[int]

    def blocks(self, block_length: int) -> list[range]:
        """Return the positions of the tokens in each block of the grid, which starts with the context."""
        first, end = len(self.context), len(self.context) + len(self.tokens)
        starts = [first, *range((first // block_length + 1) * block_length, end, block_length)]
        return [range(start, stop) for start, stop in zip(starts, [*starts[1:], end], strict=True)]


@dataclass(frozen=True)
class MaskSet:
    """Positions that are masked at once in a block.

    Args:
        positions: The positions.
        weight: Factor of the sum of their log-probabilities in the estimate.
    """

    positions: tuple[int, ...]
    weight: float


class Likelihood:
    """The lower bound on the log-likelihood that block diffusion is trained on.

    A block is conditioned on everything before it, and within a block tokens are decided in a random order (BD3-LM,
    arXiv 2503.09573). For the n scored tokens ``y`` of a block, with ``x`` the tokens before the block and
    those of the context in it::

        log p(y | x)  >=  E over m in 1..n, M of size m:  n / m  *  sum over i in M of  log p(y_i | x, y without M)

    with m and M uniform (LLaDA, arXiv 2502.09992). The bound of a continuation is the sum over its blocks. What
    follows the continuation in its last block is masked throughout. With one token in each block, as for block length
    1, there is one M, and the bound is the exact likelihood from left to right.

    A block with at most ``mc_samples`` sets M is computed exactly, from all of them; from others, ``mc_samples`` are
    drawn, with sizes m that are evenly spread. They depend on the seed and the continuation alone.

    Args:
        denoiser: The model, in eval mode.
        mc_samples: Most sets of masks for each block, at least 1.
        seed: Seed of the masks.
        batch_size: Continuations that share a forward.
    """

    def __init__(self, denoiser: Denoiser, mc_samples: int = 32, seed: int = 0, batch_size: int = 16) -> None:
        self._denoiser = denoiser
        self._mc_samples, self._seed, self._batch_size = mc_samples, seed, batch_size

    def __call__(self, continuations: Sequence[Continuation]) -> Iterator[tuple[int, float, bool]]:
        """Yield the bound of each continuation in nats, in an order that wastes little padding.

        Args:
            continuations: Each no longer than the context with what is before it.

        Yields:
            The continuation's index, the bound, and whether decoding it greedily, the most confident token at a time,
            gives these tokens.
        """
        order = sorted(range(len(continuations)), key=lambda index: self._size(continuations[index]))
        for begin in range(0, len(order), self._batch_size):
            indices = order[begin : begin + self._batch_size]
            members = [continuations[index] for index in indices]
            batch = _Batch(self._denoiser, members)
            bounds = batch.bounds([self._views(continuation) for continuation in members])
            yield from zip(indices, bounds, batch.are_greedy(), strict=True)

    def _size(self, continuation: Continuation) -> tuple[int, int]:
        """Return how many forwards the views of a continuation take, and how long they are."""
        blocks = continuation.blocks(self._denoiser.block_length)
        forwards = max(num_mask_sets(len(block), self._mc_samples) for block in blocks)
        return forwards, len(continuation.context) + len(continuation.tokens)

    def _views(self, continuation: Continuation) -> list[list[MaskSet]]:
        """Return the sets of masks of a continuation: for each forward, at most one for each block."""
        generator = torch.Generator()
        generator.manual_seed(stable_seed(self._seed, "likelihood", continuation.context, continuation.tokens))
        blocks = [
            mask_sets(block, self._mc_samples, generator) for block in continuation.blocks(self._denoiser.block_length)
        ]
        return [[sets[view] for sets in blocks if view < len(sets)] for view in range(max(map(len, blocks)))]


def num_mask_sets(count: int, most: int) -> int:
    """Return how many sets :func:`mask_sets` returns for so many positions: all that there are, or ``most``."""
    return min((1 << count) - 1, most)


def mask_sets(positions: Sequence[int], most: int, generator: torch.Generator) -> list[MaskSet]:
    """Return sets of masks, whose weighted sums of log-probabilities add up to the bound or an estimate of it.

    Args:
        positions: The n positions of a block.
        most: Most sets.
        generator: Draws the sets if there are more.
    """
    n = len(positions)
    if 2**n - 1 == num_mask_sets(n, most):
        return [
            MaskSet(masked, 1 / (size * comb(n, size)))
            for size in range(1, n + 1)
            for masked in combinations(positions, size)
        ]
    quantiles = (torch.arange(most) + torch.rand(most, generator=generator, dtype=torch.float64)) / most
    sizes = (1 + (quantiles * n).long().clamp(max=n - 1)).tolist()
    orders = [torch.randperm(n, generator=generator).tolist() for _ in sizes]
    return [
        MaskSet(tuple(positions[index] for index in order[:size]), n / (size * most))
        for order, size in zip(orders, sizes, strict=True)
    ]


class _Batch:
    """Continuations that share forwards: one of their clean tokens, and one for each view of them with masks.

    Shapes: B continuations, L positions, n masked positions.
    """

    def __init__(self, denoiser: Denoiser, continuations: Sequence[Continuation]) -> None:
        self._denoiser = denoiser
        self._continuations = continuations
        length, special = denoiser.block_length, denoiser.special
        rows = [continuation.context + continuation.tokens for continuation in continuations]
        shape = len(rows), whole_blocks(max(map(len, rows)), length)
        ids = torch.full(shape, special.mask_id)
        roles = torch.full(shape, int(Role.PAD))
        for row, (continuation, tokens) in enumerate(zip(continuations, rows, strict=True)):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            roles[row, : whole_blocks(len(tokens), length)] = Role.FILL  # masked in every view
            roles[row, : len(tokens)] = Role.RESPONSE
            roles[row, : len(continuation.context)] = Role.PROMPT
        self._clean = CleanBatch(ids.to(denoiser.device), roles.to(denoiser.device), length, special)
        with torch.no_grad():
            self._forward = TrainingForward(denoiser, self._clean)

    def bounds(self, views: Sequence[list[list[MaskSet]]]) -> list[float]:
        """Return the bound of each continuation.

        Args:
            views: The views of each, with the sets of masks of its blocks.
        """
        bounds = [0.0] * len(views)
        for number in range(max(map(len, views))):
            masked = [
                (row, position, mask_set.weight)
                for row, sets in enumerate(views)
                for mask_set in (sets[number] if number < len(sets) else [])
                for position in mask_set.positions
            ]
            rows, positions, weights = (list(values) for values in zip(*masked, strict=True))
            log_probs, _, _ = self._predict(rows, positions)
            for row, weight, log_prob in zip(rows, weights, log_probs.tolist(), strict=True):
                bounds[row] += weight * log_prob
        return bounds

    def are_greedy(self) -> list[bool]:
        """Return whether deciding the most confident token of each block at every step gives the continuation.

        All blocks take their steps at once: one that is wrong makes the blocks after it irrelevant.
        """
        length = self._denoiser.block_length
        pending = {
            (row, block[0] // length): list(block)
            for row, continuation in enumerate(self._continuations)
            for block in continuation.blocks(length)
        }
        wrong: set[int] = set()
        while pending:
            rows = [row for (row, _), block in pending.items() for _ in block]
            positions = [position for block in pending.values() for position in block]
            _, log_odds, hits = self._predict(rows, positions)
            number = torch.tensor([number for number, block in enumerate(pending.values()) for _ in block])
            index = number, torch.tensor(positions) % length
            scores = torch.full((len(pending), length), -torch.inf).index_put(index, log_odds)
            is_hit = torch.zeros(scores.shape, dtype=torch.bool).index_put(index, hits)
            chosen = descending_rank(scores).argmin(1, keepdim=True)
            steps = torch.cat([chosen, is_hit.gather(1, chosen)], 1).tolist()
            for (row, block), (offset, hit) in zip(pending, steps, strict=True):
                pending[row, block].remove(block * length + offset)
                if not hit:
                    wrong.add(row)
            pending = {key: block for key, block in pending.items() if block and key[0] not in wrong}
        return [row not in wrong for row in range(len(self._continuations))]

    def _predict(self, rows: list[int], positions: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Run a view with masks at n positions.

        Args:
            rows: The continuation of each.
            positions: The position of each in its row.

        Returns:
            ``[n]`` each, on the CPU: the log-probability of the clean token, the log odds of the most probable one, and
            whether they are the same.
        """
        clean, device = self._clean, self._denoiser.device
        where = torch.tensor(rows, device=device), torch.tensor(positions, device=device)
        masked = (clean.roles == Role.FILL).index_put(where, torch.ones((), dtype=torch.bool, device=device))
        with torch.no_grad():
            hidden = self._forward(clean.with_masks(masked))[where]
            chunks = (torch.split(values, self._chunk) for values in (hidden, clean.ids[where]))
            parts = [self._score(*chunk) for chunk in zip(*chunks, strict=True)]
        log_probs, log_odds, hits = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
        return log_probs, log_odds, hits

    @property
    def _chunk(self) -> int:
        return max(1, _CHUNK // self._denoiser.vocab_size)

    def _score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self._denoiser.logits(hidden).float()
        log_probs = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        best = argmax_proposal(logits)
        return log_probs, best.log_odds, best.tokens == targets
