"""Confidence-threshold decoding of masked diffusion models (Fast-dLLM, arXiv 2505.22618; LLaDA2.0, 2512.15745)."""

from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.proposal import Proposal, confidence_rank
from dmaxlit.errors import check_at_least, check_fraction

__all__ = ["ThresholdDecoder"]


@DECODERS.register("threshold")
class ThresholdDecoder(CommittingDecoder):
    """Commit masked positions whose confidence is above a threshold, at least one; never revise.

    Position i is committed at the first forward where ``c_i > threshold`` or ``c_i`` is the highest among the masked
    ones (a tie goes left). The test is strict, so 1 commits one token at each forward, and 0 the whole block at once.

    Args:
        threshold: In [0, 1]. DMax distils its corpora with 0.95.
        max_tokens: Most tokens committed at one forward, at least 1, the most confident first; None for no limit.
        tau_semi: In [0, 1]. In a window, a block without a confident position commits its most confident one only if
            at least this share of the block before it is decided, and nothing otherwise (MultiBD, arXiv 2606.29215,
            where it is 0.9, and 0.25 or 0.75 with blocks of 4). 0: it always commits one.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(
        self,
        threshold: float = 0.95,
        max_tokens: int | None = None,
        max_steps: int | None = None,
        tau_semi: float = 0.0,
    ) -> None:
        super().__init__(max_steps)
        check_at_least(1, max_tokens=max_tokens)
        self.threshold = check_fraction("threshold", threshold)
        self.max_tokens = max_tokens
        self.tau_semi = check_fraction("tau_semi", tau_semi)

    @property
    def reads_progress(self) -> bool:
        """Whether a block may wait for the one before it; a subclass may read it for other reasons."""
        return self.tau_semi > 0 or super().reads_progress

    def waits(self, state: BlockState) -> Tensor | None:
        """Return the blocks behind one of which less than ``tau_semi`` is decided."""
        return None if state.progress_before is None else state.progress_before < self.tau_semi

    def select(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """Return the positions above the threshold, at most ``max_tokens`` of them."""
        confident = proposal.confidence > self.threshold
        if self.max_tokens is not None:
            confident &= confidence_rank(proposal, state.masked) < self.max_tokens
        return confident
