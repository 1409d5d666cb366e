"""The reward of distribution matching (DMax-MMD, arXiv 2610.06648): squared MMD between groups and a reference.

Shapes: B sequences of n segments (blocks, or the whole sequence) of T positions; features of width D.
"""

import torch
from torch import Tensor


def distances(one: Tensor, other: Tensor) -> Tensor:
    """Compute squared distances divided by the width, between the positions of each segment.

    Args:
        one: ``[B, n, T, D]`` float32.
        other: ``[B, n, T, D]`` float32.

    Returns:
        ``[B, n, T, T]``.
    """
    with torch.autocast(one.device.type, enabled=False):
        # Not by matrix products, which lose the digits of small distances.
        distance = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.square() / one.shape[-1]


def median_bandwidth(distance: Tensor, pairs: Tensor) -> Tensor:
    """Return sigma of each sequence by the median heuristic: ``2 sigma^2`` is the median distance.

    Args:
        distance: ``[B, n, T, T]`` result of :func:`distances`.
        pairs: ``[B, n, T, T]`` bool, pairs that count.

    Returns:
        ``[B, 1, 1, 1]``, above 0.
    """
    # The lower one of two, as of nanmedian, which on a GPU is no deterministic algorithm. NaN is sorted last.
    ordered = distance.masked_fill(~pairs, torch.nan).flatten(1).sort(1).values
    middle = ((~ordered.isnan()).sum(1, keepdim=True) - 1).clamp(min=0) // 2
    median = ordered.gather(1, middle).squeeze(1)
    median = median.nan_to_num(1.0).clamp(min=torch.finfo(torch.float32).tiny ** 0.5)
    return (median / 2).sqrt()[:, None, None, None]


def kernel(distance: Tensor, sigma: Tensor | float) -> Tensor:
    """Return ``exp(-distance / (2 sigma^2))``.

    Args:
        distance: Result of :func:`distances`.
        sigma: Bandwidth, above 0.
    """
    return torch.exp(-distance / (2 * sigma**2))


def mean_kernel(distance: Tensor, sigma: Tensor | float, pairs: Tensor) -> Tensor:
    """Return the mean kernel value of each segment's pairs, ``[B, n]``; 0 without any."""
    values = (kernel(distance, sigma) * pairs).sum((-1, -2))
    return values / pairs.sum((-1, -2)).clamp(min=1)


def pairs_of(selected: Tensor, distinct: bool = False) -> Tensor:
    """Return the pairs of selected positions, ``[B, n, T, T]`` bool.

    Args:
        selected: ``[B, n, T]`` bool.
        distinct: Leave out pairs of a position with itself.
    """
    pairs = selected.unsqueeze(-1) & selected.unsqueeze(-2)
    return pairs & ~torch.eye(selected.shape[-1], dtype=torch.bool, device=pairs.device) if distinct else pairs


def rewards(attraction: Tensor, repulsion: Tensor) -> Tensor:
    """Return ``2 * mean_b attraction - mean over b != b' of repulsion``, ``[B, n, G]``.

    The larger, the smaller the squared MMD between a group and the reference. Pairs inside one sample are no part of
    it: they are not independent.

    Args:
        attraction: ``[B, n, G, S]`` mean kernel between the reference and each of the S samples of G groups.
        repulsion: ``[B, n, G, S, S]`` mean kernel between two samples; the diagonal is ignored. With S = 1 it is 0.
    """
    count = attraction.shape[-1]
    others = repulsion.sum((-1, -2)) - repulsion.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 2 * attraction.mean(-1) - others / max(1, count * (count - 1))


def advantages(reward: Tensor) -> Tensor:
    """Subtract from each group's reward the mean of the other groups', ``[..., G]``; with one group, nothing."""
    groups = reward.shape[-1]
    if groups == 1:
        return reward
    return reward - (reward.sum(-1, keepdim=True) - reward) / (groups - 1)
