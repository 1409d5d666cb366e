"""Admission by progress and stability (MultiBD, arXiv 2606.29215)."""

from torch import Tensor

from dmaxlit.decoding.admission.base import ADMISSIONS, AdmissionPolicy
from dmaxlit.decoding.base import BlockState
from dmaxlit.errors import check_fraction

__all__ = ["MultiBDAdmission"]


@ADMISSIONS.register("multi_bd")
class MultiBDAdmission(AdmissionPolicy):
    """Open the next block when enough of the last one is decided, and enough of that came back unchanged.

    MultiBD activates a slot of its block buffer when progress is at least ``tau_add`` and the *same-token ratio* at
    least ``tau_stable``: of the tokens that the model read in this forward, the share that the decoder left as they
    were. With ``edit`` and ``tau_edit: 0`` that is the published ratio, the share that the model predicts again. For a
    decoder that never revises, the ratio is 1; so it is where no token was read yet.

    The rows "DMax + MultiBD" were published with a ``window`` of 2, this ``edit`` and ``keeps_closed``: there a closed
    block stays in the buffer for the forward that writes its keys, and takes the place of one that could be denoised.

    Args:
        tau_add: In [0, 1]. Published: 0.1 for mathematics, 0.9 for code.
        tau_stable: In [0, 1]. Published: 0.5 for DMax.
        keeps_closed: Let a closed block hold its place of the window for a forward, as published; and blocks close one
            a forward then.
    """

    def __init__(self, tau_add: float = 0.1, tau_stable: float = 0.5, keeps_closed: bool = False) -> None:
        self.tau_add = check_fraction("tau_add", tau_add)
        self.tau_stable = check_fraction("tau_stable", tau_stable)
        self.keeps_closed, self.closes_together = keeps_closed, not keeps_closed

    def admit(self, before: BlockState, after: BlockState) -> Tensor:
        """Return where both shares are reached, ``[R]`` bool."""
        read = before.editable & ~before.masked
        same = read & (after.ids == before.ids) & ~after.masked
        is_stable = same.sum(1) >= self.tau_stable * read.sum(1)
        return (after.progress >= self.tau_add) & is_stable
