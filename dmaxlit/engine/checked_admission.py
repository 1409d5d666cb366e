"""Checks of what a user's own admission policy returns."""

import torch
from torch import Tensor

from dmaxlit.decoding.admission import AdmissionPolicy
from dmaxlit.decoding.base import BlockState
from dmaxlit.errors import UserError, describe_value


class CheckedAdmission(AdmissionPolicy):
    """A policy of which every answer is checked, by type and shape, which needs no transfer from the device.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: AdmissionPolicy) -> None:
        self._policy = policy
        self.closes_together, self.keeps_closed = policy.closes_together, policy.keeps_closed

    def admit(self, before: BlockState, after: BlockState) -> Tensor:
        """Return what the policy does, ``[R]`` bool.

        Raises:
            UserError: If it is something else.
        """
        return self._checked("admit", self._policy.admit(before, after), after)

    def restarts_behind(self, before: BlockState, after: BlockState) -> Tensor | None:
        """Return what the policy does, ``[R]`` bool or None.

        Raises:
            UserError: If it is something else.
        """
        restarts = self._policy.restarts_behind(before, after)
        return None if restarts is None else self._checked("restarts_behind", restarts, after)

    def _checked(self, method: str, answer: object, state: BlockState) -> Tensor:
        shape = state.converged.shape
        if not isinstance(answer, Tensor) or answer.dtype != torch.bool or answer.shape != shape:
            raise UserError(
                f"admission {type(self._policy).__name__}: expected {method} to return bool of shape {list(shape)}, "
                f"got {describe_value(answer)}"
            )
        return answer


def checked(policy: AdmissionPolicy, enabled: bool) -> AdmissionPolicy:
    """Return a policy whose answers are checked; dmaxlit's own are not, for its tests do that.

    Args:
        policy: The policy.
        enabled: Whether to check anything.
    """
    is_own = type(policy).__module__.startswith("dmaxlit.")
    return CheckedAdmission(policy) if enabled and not is_own else policy
