"""The contract of admission policies.

Shapes: R rows, each with an open block of a prompt; T tokens per block.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from dmaxlit.decoding.base import BlockState
from dmaxlit.factory import make_by_name
from dmaxlit.registry import Registry, class_and_options

__all__ = ["ADMISSIONS", "AdmissionPolicy", "make_admission"]


class AdmissionPolicy(ABC):
    """Decides when the block behind the last open one is opened too.

    The engine asks after each forward, of every open block. The answer of the last one of a prompt counts, where its
    window has room, its budget reaches further, and none of its open blocks holds an EOS. It opens at most one block a
    forward. Like a decoder's step, the answer is a tensor operation over all rows in which no row depends on another.
    It must not write to the states, which decoding goes on with.

    Attributes:
        closes_together: Whether a block that has converged is closed in the same forward as the one before it.
        keeps_closed: Whether a closed block takes a place of the window until the forward that writes its keys is over.
    """

    closes_together: bool = True
    keeps_closed: bool = False

    def __repr__(self) -> str:
        """Return the class and its options."""
        return class_and_options(self)

    @abstractmethod
    def admit(self, before: BlockState, after: BlockState) -> Tensor:
        """Return whether to open the next block behind each block, ``[R]`` bool.

        Args:
            before: All open blocks, as they were fed to the model. Only of the last one of a prompt the answer counts.
            after: The same blocks after the decoder's step.
        """

    def restarts_behind(self, before: BlockState, after: BlockState) -> Tensor | None:
        """Return of which blocks the change in this forward makes those behind them begin anew, ``[R]`` bool.

        Default: None, which is of none. A block behind which others begin anew closes alone.

        Args:
            before: All open blocks, as they were fed to the model.
            after: The same blocks after the decoder's step.
        """
        return None


ADMISSIONS: Registry[AdmissionPolicy] = Registry("admission policy", "admissions", AdmissionPolicy)


def make_admission(policy: str | type[AdmissionPolicy] | AdmissionPolicy, /, **options: Any) -> AdmissionPolicy:
    """Return a policy by its registered name, import path or class; a ready policy is returned unchanged.

    Args:
        policy: Registered name, import path, class, or a policy.
        options: Options of its constructor; a ready policy takes none.

    Raises:
        UserError: For an unknown name, something that is no policy, an unknown option, one that is missing, or one of
            the wrong type or out of range.
    """
    ready: AdmissionPolicy = make_by_name("admission", ADMISSIONS, AdmissionPolicy, policy, options)
    return ready
