"""How a batch's blocks are laid out for the model: only those that are needed, several sequences in a row.

Shapes: B sequences of L positions, n blocks of T each; R rows of W positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dmaxlit.backbone.attention import block_diffusion_mask
from dmaxlit.tokens import CleanBatch, Role

__all__ = ["Half", "Layout"]


@dataclass(frozen=True)
class Half:
    """Blocks of one kind, clean or noisy, side by side in rows.

    Args:
        index: ``[R, W]`` place of each position in the flattened batch; 0 where a row is filled up.
        sequence: ``[R, W]`` number of the sequence it belongs to; -1 for filling.
        block: ``[R, W]`` its block in that sequence.
        position: ``[R, W]`` its position in that sequence; sequences that share a row all start at 0.
        real: ``[R, W]`` bool, False for filling and for pads.
        noisy: Whether these are the blocks of a view.
    """

    index: Tensor
    sequence: Tensor
    block: Tensor
    position: Tensor
    real: Tensor
    noisy: bool

    @classmethod
    def of(cls, rows: list[list[int]], clean: CleanBatch, noisy: bool) -> "Half":
        """Blocks by their number in the flattened batch, row by row."""
        length, device = clean.block_length, clean.ids.device
        width = max(1, *map(len, rows))
        number = torch.tensor([row + [-1] * (width - len(row)) for row in rows], device=device)
        number = number.repeat_interleave(length, 1)
        blocks = clean.ids.shape[1] // length
        filling = number < 0
        offset = torch.arange(length, device=device).repeat(width)
        block = torch.where(filling, 0, number % blocks)
        index = torch.where(filling, 0, number * length + offset)
        real = (clean.roles.flatten()[index] != Role.PAD) & ~filling
        sequence = torch.where(filling, -1, number // blocks)
        return cls(index, sequence, block, torch.where(filling, 0, block * length + offset), real, noisy)

    def take(self, values: Tensor) -> Tensor:
        """``[R, W, ...]`` of what belongs to the batch's positions, ``[B, L, ...]``."""
        return values.flatten(0, 1)[self.index]


@dataclass(frozen=True)
class Layout:
    """The clean half holds every block of a sequence, the noisy half the blocks with response tokens.

    A view is only asked about response tokens, and a noisy block is seen by itself alone. Sequences share a row as long
    as it is no longer than the longest of them, so that short ones cost no padding; none sees another. Both halves of a
    sequence lie in the same row.

    Args:
        clean: The clean half.
        noisy: The noisy half.
        place: ``[B, L]`` where each position lies in the flattened noisy half; 0 for those that are not there.
    """

    clean: Half
    noisy: Half
    place: Tensor

    @classmethod
    def of(cls, clean: CleanBatch) -> "Layout":
        """Lay out a batch. Waits for the device."""
        batch, length = clean.ids.shape
        assert length % clean.block_length == 0, "batches are padded to whole blocks"
        in_blocks = clean.roles.view(batch, -1, clean.block_length)
        answers = (in_blocks == Role.RESPONSE).any(-1)
        used = torch.stack([(in_blocks != Role.PAD).any(-1), answers]).tolist()
        blocks = length // clean.block_length
        needed, asked = (
            [[row * blocks + place for place in range(blocks) if kind[row][place]] for row in range(batch)]
            for kind in used
        )
        rows = _bins([len(numbers) for numbers in needed])
        halves = [
            Half.of([[number for row in group for number in numbers[row]] for group in rows], clean, noisy)
            for numbers, noisy in ((needed, False), (asked, True))
        ]
        noisy = halves[1]
        # One entry more takes what filling says of its place.
        place = torch.zeros(batch * length + 1, dtype=torch.long, device=clean.ids.device)
        index = torch.where(noisy.sequence < 0, batch * length, noisy.index).flatten()
        place[index] = torch.arange(index.shape[0], device=index.device)
        return cls(halves[0], noisy, place[:-1].view(batch, length))

    @staticmethod
    def allowed(queries: list[Half], keys: list[Half]) -> Tensor:
        """Who may attend to whom, ``[R, Q, K]``; the queries are the last of the keys.

        What is not real is seen by itself alone, so that no query is without a key.
        """
        q, k = _joined(queries), _joined(keys)
        mask = block_diffusion_mask(q["block"], k["block"], q["noisy"], k["noisy"])
        mask &= (q["sequence"].unsqueeze(-1) == k["sequence"].unsqueeze(-2)) & k["real"].unsqueeze(-2)
        count, total = mask.shape[1:]
        return mask | torch.eye(total, dtype=torch.bool, device=mask.device)[total - count :]


def _joined(halves: list[Half]) -> dict[str, Tensor]:
    parts = {name: torch.cat([getattr(half, name) for half in halves], 1) for name in ("block", "sequence", "real")}
    noisy = torch.cat([torch.full_like(half.real, half.noisy) for half in halves], 1)
    return {**parts, "noisy": noisy}


def _bins(sizes: list[int]) -> list[list[int]]:
    """Items in as few bins as first-fit finds, none fuller than the largest item; in order of their first items."""
    capacity, bins, left = max(sizes), list[list[int]](), list[int]()
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        place = next((place for place, room in enumerate(left) if sizes[item] <= room), None)
        if place is None:
            bins.append([])
            left.append(capacity)
            place = len(bins) - 1
        bins[place].append(item)
        left[place] -= sizes[item]
    return sorted(sorted(items) for items in bins)
