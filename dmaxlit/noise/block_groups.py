"""Groups of blocks that are denoised together: their layouts and noise levels (MultiTF, arXiv 2606.29215)."""

import torch
from torch import Tensor

from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role

LOWEST, HIGHEST = 0.001, 1.0
# Levels end a little below the highest one, so that a chain can rise.
_HIGHEST_DRAWN = HIGHEST - 0.01 * (HIGHEST - LOWEST)


def layouts(size: int) -> list[tuple[int, int]]:
    """Return the regular layouts: groups of 2 to ``size`` blocks, each behind a first group of every smaller size.

    Args:
        size: Most blocks in a group.

    Returns:
        Blocks in a group, and in the first group (0 for none).
    """
    return [(x, shift) for x in range(2, size + 1) for shift in range(x)]


def draw_groups(clean: CleanBatch, size: int, num_random: int, generator: RowGenerator) -> Tensor:
    """Draw a layout for each row, all equally likely, and return each block's group, ``[batch, blocks]``.

    A random layout has groups of 2 to ``size`` blocks, and a remainder at a random place. With groups of 3 or more, the
    remainder is no single block (as in the paper) unless it is all there is.

    Args:
        clean: The clean batch; groups are counted from position 0, prompts included.
        size: Most blocks in a group.
        num_random: Number of random layouts beside the regular ones.
        generator: Source of randomness.
    """
    blocks = clean.ids.shape[1] // clean.block_length
    regular = layouts(size)
    number = (generator.rand(1)[:, 0] * (len(regular) + num_random)).long().tolist()
    sizes = (2 + generator.rand(blocks) * (size - 1)).long().tolist()
    place = generator.rand(1)[:, 0].tolist()
    used = (clean.roles != Role.PAD).view(len(clean.ids), blocks, -1).any(-1).sum(1).tolist()
    rows = []
    for row, which in enumerate(number):
        if which < len(regular):
            x, shift = regular[which]
            parts = [shift, *[x] * blocks]
        else:
            parts = _random_parts(sizes[row], size, used[row], place[row])
        numbers = [group for group, part in enumerate(parts) for _ in range(part)]
        rows.append((numbers + [len(parts) + block for block in range(blocks)])[:blocks])
    return torch.tensor(rows, device=clean.ids.device)


def _random_parts(sizes: list[int], most: int, blocks: int, place: float) -> list[int]:
    """Return sizes up to ``most`` that sum to ``blocks``, the last one cut off and moved to a random place."""
    parts: list[int] = []
    for size in sizes:
        if sum(parts) + size > blocks:
            break
        parts.append(size)
    rest = blocks - sum(parts)
    if rest == 1 and parts and most > 2:
        # The single block joins a group, or a full group gives it another one.
        group = int(place * len(parts))
        joined = 1 if parts[group] < most else -1
        parts[group] += joined
        rest -= joined
    if rest:
        parts.insert(int(place * (len(parts) + 1)), rest)
    return parts


def rank_in_group(groups: Tensor) -> Tensor:
    """Return the number of blocks of the same group before each block, ``[batch, blocks]``."""
    same = groups.unsqueeze(2) == groups.unsqueeze(1)
    return same.tril(-1).sum(2)


def split_at_prompts(groups: Tensor, clean: CleanBatch) -> Tensor:
    """Return the groups with each block without response tokens by itself.

    Such a block is never noisy: its clean copy, which later groups attend to, is what a noisy one would be.
    """
    has_response = clean.response.view(*groups.shape, -1).any(-1)
    begins = torch.ones_like(has_response)
    begins[:, 1:] = (groups.diff(dim=1) != 0) | ~has_response[:, 1:] | ~has_response[:, :-1]
    return begins.long().cumsum(1) - 1


def chain_levels(rank: Tensor, generator: RowGenerator) -> Tensor:
    """Draw rising levels within each group, ``[batch, blocks]``.

    ``L ~ U(low, high)``, ``p_1 ~ U(L, high)``, ``p_j ~ U(p_(j-1), high)``.

    Args:
        rank: ``[batch, blocks]`` number of blocks of the same group before each block.
        generator: Source of randomness.
    """
    blocks = rank.shape[1]
    start = LOWEST + generator.rand(blocks) * (_HIGHEST_DRAWN - LOWEST)  # L of a group that begins here
    u, level, previous = generator.rand(blocks), [], start[:, 0]
    for block in range(blocks):
        previous = torch.where(rank[:, block] == 0, start[:, block], previous)
        previous = previous + u[:, block] * (_HIGHEST_DRAWN - previous)
        level.append(previous)
    return torch.stack(level, 1)


def range_levels(rank: Tensor, ranges: list[tuple[float, float]], generator: RowGenerator) -> Tensor:
    """Draw each block's level from the range of its place in the group, ``[batch, blocks]``.

    Args:
        rank: As in :func:`chain_levels`.
        ranges: Lowest and highest level of the first, second ... block of a group; the last one is that of all others.
        generator: Source of randomness.
    """
    table = torch.tensor(ranges, dtype=torch.float32, device=rank.device)[rank.clamp(max=len(ranges) - 1)]
    low, high = table.unbind(-1)
    return low + generator.rand(rank.shape[1]) * (high - low)


def choose_exactly(clean: CleanBatch, level: Tensor, generator: RowGenerator) -> Tensor:
    """Choose exactly ``floor(n * level)`` of the n response tokens of each block, ``[batch, length]`` bool.

    Below level 1 that is never all of them: a response token that is alone in its block is never chosen.

    Args:
        clean: The clean batch.
        level: ``[batch, blocks]``.
        generator: Source of randomness.
    """
    response = clean.response.view(*level.shape, -1)
    u = generator.rand(clean.ids.shape[1]).view_as(response).masked_fill(~response, 2.0)
    rank = u.argsort(-1).argsort(-1)
    count = (response.sum(-1) * level).floor()
    return ((rank < count.unsqueeze(-1)) & response).view_as(clean.ids)
