"""Admission by progress, with blocks that begin anew when the text that they were written behind is revised."""

from torch import Tensor

from dmaxlit.decoding.admission.base import ADMISSIONS
from dmaxlit.decoding.admission.progress import ProgressAdmission
from dmaxlit.decoding.base import BlockState
from dmaxlit.errors import check_fraction

__all__ = ["RestartingAdmission"]


@ADMISSIONS.register("restarting")
class RestartingAdmission(ProgressAdmission):
    """Open the next block by progress, and let it begin anew when the block before it is revised.

    What a block has written behind wrong tokens tends to stay when these are corrected: it confirms itself. So blocks
    are masked again when, in a block before them, tokens that the model read changed at more than ``tau_restart`` of
    its response positions; and a block is closed only after it has read the one before it closed.

    Args:
        theta: As in ``progress``.
        tau_restart: Share of the response positions of a block, in [0, 1], at more of which a token has to change in a
            forward for the blocks behind it to begin anew. 0: any change; 1: never.
    """

    closes_together = False

    def __init__(self, theta: float = 0.6, tau_restart: float = 0.125) -> None:
        super().__init__(theta)
        self.tau_restart = check_fraction("tau_restart", tau_restart)

    def restarts_behind(self, before: BlockState, after: BlockState) -> Tensor:
        """Return where more of the tokens that were read changed, ``[R]`` bool."""
        changed = before.editable & ~before.masked & ((after.ids != before.ids) | after.masked)
        return changed.sum(1) > self.tau_restart * after.editable.sum(1)
