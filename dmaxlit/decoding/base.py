"""The contract of a decoder: a pure step from one forward's logits to the next canvas.

Shapes: R rows, T tokens of a block, V vocabulary, K entries of a mixture. Every row shows one block.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.registry import Registry
from dmaxlit.tokens import SpecialIds

__all__ = ["DECODERS", "BlockState", "Decoder", "SoftTokens", "Top1", "check_fraction", "first_of", "top1"]


@dataclass(frozen=True)
class SoftTokens:
    """Inputs of the next forward that are mixtures of tokens; see :func:`dmaxlit.decoding.hybrid.blend`.

    Args:
        ids: ``[R, T, K]`` tokens that are mixed; the mask token may be one of them.
        weights: ``[R, T, K]`` their shares, each at least 0, with sum 1.
        where: ``[R, T]`` bool, positions whose input is the mixture. Elsewhere it is the canvas's token.
    """

    ids: Tensor
    weights: Tensor
    where: Tensor


@dataclass(frozen=True)
class BlockState:
    """One block per row, between two forwards. Never changed in place.

    Args:
        ids: ``[R, T]`` the canvas; the mask token where nothing is decided.
        editable: ``[R, T]`` bool, positions of the response; all others belong to the prompt and never change.
        masked: ``[R, T]`` bool, positions not decided yet. Always explicit: a prompt may contain the mask token.
        step: ``[R]`` forwards spent on the block so far.
        converged: ``[R]`` bool, the block is done and its hard tokens can be committed.
        soft: Mixtures to feed next, or None for the canvas as it is.
        memory: What else a decoder keeps, each ``[R, ...]``.
    """

    ids: Tensor
    editable: Tensor
    masked: Tensor
    step: Tensor
    converged: Tensor
    soft: SoftTokens | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)

    def advance(
        self,
        ids: Tensor,
        masked: Tensor,
        converged: Tensor,
        soft: SoftTokens | None = None,
        memory: dict[str, Tensor] | None = None,
    ) -> "BlockState":
        """The state one forward later; ``memory`` stays as it is if not given."""
        memory = self.memory if memory is None else memory
        return BlockState(ids, self.editable, masked, self.step + 1, converged, soft, memory)

    def select(self, rows: Tensor) -> "BlockState":
        """The given rows (``[n]`` indices), in that order."""
        chosen: BlockState = _combine(lambda mine: mine.index_select(0, rows), self)
        return chosen

    def assign(self, rows: Tensor, other: "BlockState") -> "BlockState":
        """This state with the given rows (``[n]`` indices, none twice) replaced by the rows of ``other``."""
        merged: BlockState = _combine(lambda mine, theirs: mine.index_copy(0, rows, theirs.to(mine.dtype)), self, other)
        return merged


def _combine(combine: Callable[..., Tensor], *parts: Any) -> Any:
    """Apply ``combine`` to corresponding tensors of states of one decoder."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return combine(*parts)
    if isinstance(first, dict):
        return {name: _combine(combine, *(part[name] for part in parts)) for name in first}
    return replace(
        first, **{f.name: _combine(combine, *(getattr(part, f.name) for part in parts)) for f in fields(first)}
    )


class Decoder(ABC):
    """Decides a block's tokens from one forward to the next.

    A decoder never calls the model and never waits for the device: everything is a tensor operation over all rows,
    and a row's outcome does not depend on the other rows. The engine (:class:`dmaxlit.decoding.BlockDecoder`) owns the
    loop, the cache, the end of a response and the budgets.

    Args:
        max_steps: Most forwards spent on one block, at least 1; None for the decoder's own default. The engine closes a
            block that reaches it, gives masks that are left their current top-1 token, and counts it.
    """

    def __init__(self, max_steps: int | None = None) -> None:
        if max_steps is not None and max_steps < 1:
            raise UserError(f"max_steps: expected at least 1 or none, got {max_steps}")
        self._max_steps = max_steps

    def start(self, ids: Tensor, editable: Tensor, special: SpecialIds) -> BlockState:
        """Fresh blocks, with every editable position masked.

        Args:
            ids: ``[R, T]`` prompt tokens; what stands at editable positions does not matter.
            editable: ``[R, T]`` bool.
            special: The special ids.
        """
        return BlockState(
            ids=torch.where(editable, special.mask, ids),
            editable=editable,
            masked=editable,
            step=torch.zeros_like(ids[:, 0]),
            converged=torch.zeros_like(editable[:, 0]),
        )

    @abstractmethod
    def step(self, state: BlockState, logits: Tensor, special: SpecialIds) -> BlockState:
        """The state after a forward. Leaves its arguments as they are.

        Args:
            state: The blocks as they were fed to the model; no row of it has converged.
            logits: ``[R, T, V]`` logits of the token at each position, ``-inf`` for the mask token.
            special: The special ids.
        """

    def max_steps(self, block_length: int) -> int:
        """Most forwards spent on one block of that length. By default its length: one token for each forward."""
        return block_length if self._max_steps is None else self._max_steps


DECODERS: Registry[Decoder] = Registry("decoder", "decoders", Decoder)


class Top1(NamedTuple):
    """The most probable token of every position and its probability, each ``[R, T]``."""

    tokens: Tensor
    confidence: Tensor


def top1(logits: Tensor) -> Top1:
    """Most probable token and its probability, ``exp(max - logsumexp)``, in at least float32.

    A tie goes to the smallest id. The probability is at least ``1 / V`` and at most 1 also after rounding, so that
    "above 0" holds everywhere and "above 1" nowhere.

    Args:
        logits: ``[R, T, V]``.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    best, tokens = logits.max(-1)
    return Top1(tokens, (best - logits.logsumexp(-1)).exp())


def first_of(positions: Tensor) -> Tensor:
    """Only the leftmost True of each row, ``[R, T]``; a row without one stays without."""
    return positions & (positions.cumsum(1) == 1)


def check_fraction(name: str, value: float) -> float:
    """Return ``value`` if it lies in [0, 1].

    Raises:
        UserError: If it does not.
    """
    if not 0 <= value <= 1:
        raise UserError(f"{name}: expected a number in [0, 1], got {value}")
    return value
