"""Admission by progress (FlowBlock, arXiv 2607.17652)."""

from torch import Tensor

from dmaxlit.decoding.admission.base import ADMISSIONS, AdmissionPolicy
from dmaxlit.decoding.base import BlockState
from dmaxlit.errors import check_fraction

__all__ = ["ProgressAdmission"]


@ADMISSIONS.register("progress")
class ProgressAdmission(AdmissionPolicy):
    """Open the next block when enough of the last one is decided (FlowBlock's gate).

    Args:
        theta: Share of decided positions of the last open block, in [0, 1], from which on the next one is opened.
            FlowBlock uses 0.6.
    """

    def __init__(self, theta: float = 0.6) -> None:
        self.theta = check_fraction("theta", theta)

    def admit(self, before: BlockState, after: BlockState) -> Tensor:
        """Return where the share of decided positions is at least ``theta``, ``[R]`` bool."""
        return after.progress >= self.theta
