"""Random numbers for sampling, determined by prompt and position instead of the batch they are drawn in."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dmaxlit.decoding.base import Sampling
from dmaxlit.device_copies import on_device
from dmaxlit.errors import UserError, check_temperature
from dmaxlit.randomness import stable_seed

__all__ = ["Sampler"]

# The constants of splitmix64 (Steele et al., OOPSLA 2014), as signed 64-bit integers.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64


class RowSampler(Protocol):
    """Provides the random numbers of blocks."""

    def sampling(
        self, prompt_indices: list[int], block_starts: list[int], block_length: int, device: torch.device
    ) -> Sampling | None:
        """Return the sampling of blocks; arguments as of :meth:`Sampler.sampling`."""


class Sampler:
    """Samples tokens at a temperature, from the nucleus of the distribution.

    Args:
        temperature: From 0 to 10,000; 0 takes the most probable token.
        top_p: In (0, 1]; tokens are sampled from the smallest set with that probability.
        seed: Seed; the same seed gives the same responses whatever the batch size.
        first_index: Index of the first prompt, if a list is decoded in several parts; or the index of each.
    """

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0, first_index: int | Sequence[int] = 0
    ) -> None:
        check_temperature(temperature)
        if not 0 < top_p <= 1:
            raise UserError(f"top_p: expected a number above 0 and at most 1, got {top_p}")
        self.temperature, self.top_p, self.seed, self.first_index = temperature, top_p, seed, first_index

    def sampling(
        self, prompt_indices: list[int], block_starts: list[int], block_length: int, device: torch.device
    ) -> Sampling | None:
        """Return the sampling of blocks, or None at temperature 0.

        Args:
            prompt_indices: Index of each row's prompt.
            block_starts: First position of each row's block.
            block_length: Tokens of a block.
            device: Device of the result.
        """
        if self.temperature == 0:
            return None
        seeds = torch.tensor([stable_seed(self.seed, "sample", self._index(prompt)) for prompt in prompt_indices])
        positions = torch.tensor(block_starts)[:, None] + torch.arange(block_length)
        draws = on_device(_splitmix64(seeds[:, None] + (positions + 1) * _INCREMENT), device)
        ones = torch.ones(len(prompt_indices), device=device)
        return Sampling(draws, ones * self.temperature, ones * self.top_p)

    def _index(self, prompt: int) -> int:
        first = self.first_index
        return first + prompt if isinstance(first, int) else first[prompt]


class SamplerPerPrompt:
    """Samples each prompt with settings of its own, as if it were the only prompt.

    Args:
        samplers: The sampler of each prompt, by its index: all at temperature 0, or none. Entries may come and go.
    """

    def __init__(self, samplers: Mapping[int, Sampler]) -> None:
        self._samplers = samplers

    def sampling(
        self, prompt_indices: list[int], block_starts: list[int], block_length: int, device: torch.device
    ) -> Sampling | None:
        """Return the sampling of blocks, or None at temperature 0; arguments as of :meth:`Sampler.sampling`."""
        rows = [
            self._samplers[index].sampling([0], [start], block_length, device)
            for index, start in zip(prompt_indices, block_starts, strict=True)
        ]
        hot = [row for row in rows if row is not None]
        assert len(hot) in (0, len(rows)), "rows at temperature 0 among others"
        if not hot:
            return None
        return Sampling(*(torch.cat(columns) for columns in zip(*(vars(row).values() for row in hot), strict=True)))


def _splitmix64(state: Tensor) -> Tensor:
    """Compute splitmix64's output for each int64 state, as a float32 in [0, 1)."""
    state = (state ^ _logical_shift(state, 30)) * _MULTIPLIER_1
    state = (state ^ _logical_shift(state, 27)) * _MULTIPLIER_2
    state = state ^ _logical_shift(state, 31)
    return (_logical_shift(state, 40).double() * 2.0**-24).float()


def _logical_shift(bits: Tensor, by: int) -> Tensor:
    """Shift signed integers to the right as if they were unsigned."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
