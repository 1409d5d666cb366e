"""Admission behind a block that only confirms its tokens."""

from torch import Tensor

from dmaxlit.decoding.admission.base import ADMISSIONS, AdmissionPolicy
from dmaxlit.decoding.base import BlockState

__all__ = ["ConvergingAdmission"]


@ADMISSIONS.register("converging")
class ConvergingAdmission(AdmissionPolicy):
    """Open the next block when the last one has no mask left and only confirms its tokens.

    A decoder that revises spends at least one more forward on such a block, in which the next one can begin. A decoder
    that never revises closes the block instead, so for it the window stays at one block.
    """

    def admit(self, before: BlockState, after: BlockState) -> Tensor:
        """Return where no position is masked, ``[R]`` bool."""
        return ~after.masked.any(1)
