"""Random numbers of sampling: known by the prompt and the position, not by the batch they are drawn in."""

import torch
from torch import Tensor

from dmaxlit.decoding.base import Sampling
from dmaxlit.errors import UserError
from dmaxlit.randomness import stable_seed

__all__ = ["Sampler"]

# The constants of splitmix64 (Steele et al., OOPSLA 2014), as signed 64-bit integers.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_HOTTEST, _COLDEST = 1e4, 1e-6  # far beyond use, within float32


class Sampler:
    """Draws tokens at a temperature, from the nucleus of the distribution.

    Args:
        temperature: From 0 to 10,000; 0 takes the most probable token.
        top_p: In (0, 1]; tokens come from the smallest set of that probability.
        seed: Seed; the same seed gives the same responses whatever the batch size.
        first: Number of the first prompt, where a list is decoded in parts.
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0, first: int = 0) -> None:
        if not 0 <= temperature <= _HOTTEST:
            raise UserError(f"temperature: expected a number from 0 to {_HOTTEST:g}, got {temperature}")
        if 0 < temperature < _COLDEST:
            raise UserError(f"temperature: expected 0 or a number from {_COLDEST:g}, got {temperature}")
        if not 0 < top_p <= 1:
            raise UserError(f"top_p: expected a number above 0 and at most 1, got {top_p}")
        self.temperature, self.top_p, self.seed, self.first = temperature, top_p, seed, first

    def of(self, index: list[int], start: list[int], length: int, device: torch.device) -> Sampling | None:
        """Sampling of blocks, or None at temperature 0.

        Args:
            index: Number of each row's prompt.
            start: First position of each row's block.
            length: Tokens of a block.
            device: Where the tensors are to be.
        """
        if self.temperature == 0:
            return None
        keys = torch.tensor([stable_seed(self.seed, "sample", self.first + number) for number in index])
        positions = torch.tensor(start)[:, None] + torch.arange(length)
        draws = _uniform(keys[:, None] + (positions + 1) * _STEP).to(device)
        every = torch.ones(len(index), device=device)
        return Sampling(draws, every * self.temperature, every * self.top_p)


def _uniform(state: Tensor) -> Tensor:
    """splitmix64's output for each state, as a float32 in [0, 1)."""
    state = (state ^ _shift(state, 30)) * _MIX_1
    state = (state ^ _shift(state, 27)) * _MIX_2
    state = state ^ _shift(state, 31)
    return (_shift(state, 40).double() * 2.0**-24).float()


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical right shift of signed integers."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
