"""The contract of a decoder: a pure step from one forward's logits to the next canvas.

Shapes: R rows, T tokens of a block, V vocabulary, K entries of a mixture, C copies. Every row shows one block.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.registry import Registry
from dmaxlit.tokens import SoftTokens, SpecialTokens

__all__ = ["DECODERS", "BlockState", "Decoder", "Sampling", "SoftTokens"]


@dataclass(frozen=True)
class Sampling:
    """Temperature and nucleus of each row, and the random numbers of its positions.

    A position keeps its random number while its block is decoded, so that predictions which settle give a token that
    settles: decoders that revise converge under sampling too.

    Args:
        draws: ``[R, T]`` uniform numbers in [0, 1).
        temperature: ``[R]`` above 0.
        top_p: ``[R]`` in (0, 1]; tokens are drawn from the smallest set of that probability.
    """

    draws: Tensor
    temperature: Tensor
    top_p: Tensor


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
        extra_blocks: ``[R, C, T]`` ids of further versions of the block that the next forward reads beside the canvas, for
            a decoder with :attr:`Decoder.extra_blocks`; else None.
        sampling: How tokens are drawn, or None to take the most probable ones. Set by the engine;
            :func:`dmaxlit.decoding.proposal.propose` obeys it.
        memory: What else a decoder keeps, each ``[R, ...]``.
    """

    ids: Tensor
    editable: Tensor
    masked: Tensor
    step: Tensor
    converged: Tensor
    soft: SoftTokens | None = None
    extra_blocks: Tensor | None = None
    sampling: Sampling | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)

    def advance(
        self,
        ids: Tensor,
        masked: Tensor,
        converged: Tensor,
        soft: SoftTokens | None = None,
        extra_blocks: Tensor | None = None,
        memory: dict[str, Tensor] | None = None,
    ) -> "BlockState":
        """The state one forward later; ``extra_blocks`` and ``memory`` stay as they are if not given."""
        extra_blocks = self.extra_blocks if extra_blocks is None else extra_blocks
        memory = self.memory if memory is None else memory
        return BlockState(
            ids, self.editable, masked, self.step + 1, converged, soft, extra_blocks, self.sampling, memory
        )

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
    and a row's outcome does not depend on the other rows. The engine (:class:`dmaxlit.engine.BlockDecoder`) owns the
    loop, the cache, the end of a response and the budgets.

    Args:
        max_steps: Most forwards spent on one block, at least 1; None for the decoder's own default. The engine closes a
            block that reaches it, gives masks that are left their current top-1 token, and counts it.
    """

    _max_steps: int | None = None

    def __init__(self, max_steps: int | None = None) -> None:
        if max_steps is not None and max_steps < 1:
            raise UserError(f"max_steps: expected at least 1 or none, got {max_steps}")
        self._max_steps = max_steps

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Fresh blocks, with every editable position masked.

        Args:
            ids: ``[R, T]`` prompt tokens; what stands at editable positions does not matter.
            editable: ``[R, T]`` bool.
            special: The special ids.
        """
        return BlockState(
            ids=torch.where(editable, special.mask_id, ids),
            editable=editable,
            masked=editable,
            step=torch.zeros_like(ids[:, 0]),
            converged=torch.zeros_like(editable[:, 0]),
        )

    @abstractmethod
    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """The state after a forward. Leaves its arguments as they are.

        Args:
            state: The blocks as they were fed to the model; no row of it has converged.
            logits: ``[R, T, V]`` logits of the token at each position, ``-inf`` for the mask token; with copies
                ``[R, 1 + C, T, V]``, the canvas's first.
            special: The special ids.
        """

    def reads(self, state: BlockState) -> Tensor | None:
        """Positions whose logits the next step looks at, ``[R, T]`` bool; None for all of them.

        With a large vocabulary the logits of the others are most of what a forward costs. A decoder with copies reads
        all.

        Args:
            state: The blocks as they are fed to the model.
        """
        return None

    def _step_sparse(self, state: BlockState, logits: Tensor, reads: Tensor, special: SpecialTokens) -> BlockState:
        """:meth:`step`, given no logits but those it looks at. Here the others are filled up with zeros.

        Args:
            state: As there.
            logits: ``[n, V]`` logits of the n positions that are read, row by row.
            reads: ``[R, T]`` bool, what :meth:`reads` says of the state.
            special: The special ids.
        """
        everywhere = logits.new_zeros(*reads.shape, logits.shape[-1])
        return self.step(state, everywhere.index_put_((reads,), logits), special)

    @property
    def extra_blocks(self) -> int:
        """Versions of the block that a forward reads beside the canvas (C): drafts to be verified, a shadow, ...

        They stand at the canvas's positions, see the same earlier blocks, and belong to the same forward; the engine
        counts what they cost as :attr:`dmaxlit.engine.DecodedSequence.num_extra_blocks`.
        """
        return 0

    def block_attention_mask(self, length: int) -> Tensor:
        """Who sees whom inside a block, ``[(1 + C) T, (1 + C) T]`` bool from query to key; the canvas is version 0.

        By default each version sees itself alone.

        Args:
            length: Tokens of the block (T).
        """
        versions = torch.arange(1 + self.extra_blocks).repeat_interleave(length)
        return versions[:, None] == versions[None, :]

    def max_steps(self, block_length: int) -> int:
        """Most forwards spent on one block of that length. By default its length: one token for each forward."""
        return block_length if self._max_steps is None else self._max_steps


DECODERS: Registry[Decoder] = Registry("decoder", "decoders", Decoder)
