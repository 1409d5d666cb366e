"""Changes of tokens during decoding: errors introduced, corrected and corrupted."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Revisions", "count_revisions"]

_NAMES = ("shown", "introduced", "corrected", "corrupted", "revised")


def count_revisions(timeline: Tensor, reference: Tensor) -> dict[str, int]:
    """Count the changes of an answer's tokens, compared with a reference.

    - ``shown``: tokens that appeared at a mask, including a position that was masked again;
    - ``introduced``: the wrong ones of these;
    - ``corrected``: changes, from one forward to the next, of a wrong token to the right one;
    - ``corrupted``: changes of the right token to a wrong one;
    - ``revised``: all changes of one token to another.

    Args:
        timeline: ``[F, n]`` token at each position after each forward, -1 for a mask.
        reference: ``[n]`` the right tokens.

    Raises:
        ValueError: For other shapes.

    Example:
        >>> import torch
        >>> count_revisions(torch.tensor([[5, -1], [6, 7], [5, 8]]), reference=torch.tensor([5, 8]))
        {'shown': 2, 'introduced': 1, 'corrected': 2, 'corrupted': 1, 'revised': 3}
    """
    if timeline.dim() != 2 or timeline.shape[1:] != reference.shape:
        shapes = {"timeline": tuple(timeline.shape), "reference": tuple(reference.shape)}
        raise ValueError(f"expected a timeline [F, n] and a reference [n], got shapes {shapes}")
    before = torch.cat([torch.full_like(timeline[:1], -1), timeline[:-1]])
    right, was_right = timeline == reference, before == reference
    shown = (before < 0) & (timeline >= 0)
    changed = (before >= 0) & (timeline >= 0) & (before != timeline)
    counts = (shown, shown & ~right, changed & right, changed & was_right, changed)
    return {name: int(count.sum()) for name, count in zip(_NAMES, counts, strict=True)}


class Revisions(Metric):
    """Rates of errors introduced, corrected and corrupted during decoding; see :func:`count_revisions`.

    - Input: ``[F, n]`` timeline of one answer, and ``[n]`` reference: the right answer if it is unique, or the final
      tokens, by which every error is corrected in the end.
    - Output: ``introduced``, ``corrected``, ``corrupted`` and ``revised``, each per token shown.

    Args:
        **kwargs: Options of :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> revisions = Revisions()
        >>> revisions.update(torch.tensor([[5, -1], [6, 7], [5, 8]]), torch.tensor([5, 8]))
        >>> {name: float(rate) for name, rate in revisions.compute().items()}
        {'introduced': 0.5, 'corrected': 1.0, 'corrupted': 0.5, 'revised': 1.5}
    """

    full_state_update = False
    is_differentiable = False
    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", default=torch.zeros(len(_NAMES), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, timeline: Tensor, reference: Tensor) -> None:
        """Count an answer.

        Args:
            timeline: ``[F, n]``, see :meth:`dmaxlit.engine.RowTrace.timeline`.
            reference: ``[n]`` the right tokens.

        Raises:
            ValueError: For other shapes.
        """
        counts = count_revisions(timeline, reference)
        self.counts += torch.tensor([counts[name] for name in _NAMES]).to(self.counts)

    def compute(self) -> dict[str, Tensor]:
        """Return the rates, float64 scalars; nan before anything was counted."""
        shown, *others = self.counts
        return {name: count / shown for name, count in zip(_NAMES[1:], others, strict=True)}
