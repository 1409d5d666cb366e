"""The decoder contract: a pure step from the logits of one forward to the next state of the block.

Shapes: R rows, each with one block; T tokens per block; V logits of a position, at least ``special.vocab_size``; K
tokens of a mixture; C extra blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from dmaxlit.errors import check_at_least
from dmaxlit.registry import Registry, class_and_options
from dmaxlit.tokens import SoftTokens, SpecialTokens

__all__ = ["DECODERS", "BlockState", "Decoder"]


@dataclass(frozen=True)
class Sampling:
    """Temperature and nucleus of each row, and the random number of each position.

    A position keeps its random number while its block is decoded, so its token settles when its prediction settles:
    decoders that revise converge under sampling too.

    Args:
        draws: ``[R, T]`` uniform numbers in [0, 1).
        temperature: ``[R]`` above 0.
        top_p: ``[R]`` in (0, 1]; tokens are drawn from the smallest set with that total probability.
    """

    draws: Tensor
    temperature: Tensor
    top_p: Tensor

    def at(self, where: Tensor) -> "Sampling":
        """Return the same for the n positions at which ``where`` (``[R, T]`` bool) is true, each field ``[n]``."""
        temperature, top_p = (option.unsqueeze(1).expand_as(where)[where] for option in (self.temperature, self.top_p))
        return Sampling(self.draws[where], temperature, top_p)


@dataclass(frozen=True)
class BlockState:
    """One block per row, between two forwards. Never changed in place.

    Args:
        ids: ``[R, T]`` tokens of the block; the mask token at undecided positions.
        editable: ``[R, T]`` bool, positions of the response; all others belong to the prompt and never change.
        masked: ``[R, T]`` bool, undecided positions. Always explicit: a prompt may contain the mask token.
        step: ``[R]`` forwards spent on the block so far.
        converged: ``[R]`` bool, the block is done and its tokens can be committed.
        soft: Mixtures of tokens to feed next, or None to feed ``ids``.
        extra_blocks: ``[R, C, T]`` ids of further copies of the block that the next forward processes together with
            it, for a decoder with :attr:`Decoder.extra_blocks`; else None.
        sampling: How to draw tokens, or None to take the most probable ones. The engine sets it;
            :func:`dmaxlit.decoding.propose` applies it.
        memory: Further tensors that a decoder carries from step to step, each ``[R, ...]``.
        progress_before: ``[R]`` share of decided positions of the block before this one, if that is open too; 1 for a
            front block; None if all are. The engine sets it for each forward of a decoder that
            :attr:`Decoder.reads_progress`.
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
    progress_before: Tensor | None = None

    @property
    def progress(self) -> Tensor:
        """Share of decided positions of each block's response, ``[R]``; 1 for a block of prompt alone."""
        decided = (self.editable & ~self.masked).sum(1)
        total = self.editable.sum(1)
        return (decided / total.clamp(min=1)).masked_fill(total == 0, 1.0)

    def advance(
        self,
        ids: Tensor,
        masked: Tensor,
        converged: Tensor,
        soft: SoftTokens | None = None,
        extra_blocks: Tensor | None = None,
        memory: dict[str, Tensor] | None = None,
    ) -> "BlockState":
        """Return the state one forward later; ``extra_blocks`` and ``memory`` are kept if omitted."""
        extra_blocks = self.extra_blocks if extra_blocks is None else extra_blocks
        memory = self.memory if memory is None else memory
        return BlockState(
            ids, self.editable, masked, self.step + 1, converged, soft, extra_blocks, self.sampling, memory
        )

    def select(self, indices: Tensor) -> "BlockState":
        """Return the rows at ``indices`` (``[n]``), in that order."""
        selected: BlockState = _map_tensors(lambda tensor: tensor.index_select(0, indices), self)
        return selected

    def join(self, other: "BlockState") -> "BlockState":
        """Return this state with the rows of ``other`` behind its own."""
        joined: BlockState = _map_tensors(
            lambda tensor, source: torch.cat([tensor, source.to(tensor.dtype)]), self, other
        )
        return joined

    def assign(self, indices: Tensor, other: "BlockState") -> "BlockState":
        """Return this state with the rows at ``indices`` (``[n]``, no repeats) replaced by the rows of ``other``."""
        merged: BlockState = _map_tensors(
            lambda tensor, source: tensor.index_copy(0, indices, source.to(tensor.dtype)), self, other
        )
        return merged


def _map_tensors(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply ``function`` to the corresponding tensors of states (or of their fields) of one decoder."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, bool):  # an option, the same in all states of a decoder
        return first
    if isinstance(first, dict):
        return {name: _map_tensors(function, *(state[name] for state in states)) for name in first}
    columns = {f.name: [getattr(state, f.name) for state in states] for f in fields(first)}
    return replace(first, **{name: _map_tensors(function, *column) for name, column in columns.items()})


class Decoder(ABC):
    """Decides a block's tokens from one forward to the next.

    A decoder never calls the model and never waits for the device: every operation is a tensor operation over all
    rows, and the result of a row does not depend on the other rows. The engine
    (:class:`dmaxlit.engine.BlockDecoder`) owns the loop, the cache, the end of a response and the budgets.

    Subclasses implement :meth:`step`. Those that never revise a token derive from
    :class:`~dmaxlit.decoding.CommittingDecoder` instead. One with options of its own may take ``**options`` and pass
    them to the constructor of its base class.

    Attributes:
        max_steps_per_token: Default of ``max_steps``, per token of a block: 1 suffices where every forward decides at
            least one token for good; decoders that revise need more.

    Args:
        max_steps: Most forwards spent on one block, at least 1; None for the decoder's default. The engine closes a
            block that reaches it, fills the remaining masks with their current top-1 tokens, and counts the block as
            ``hit_step_limit``.
    """

    max_steps_per_token: ClassVar[int] = 1
    _max_steps: int | None = None

    def __init__(self, max_steps: int | None = None) -> None:
        check_at_least(1, max_steps=max_steps)
        self._max_steps = max_steps

    def __repr__(self) -> str:
        """Return the class and those of its options that are attributes of the same name."""
        return class_and_options(self, **({} if self._max_steps is None else {"max_steps": self._max_steps}))

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Return the state of new blocks, with every editable position masked.

        Args:
            ids: ``[R, T]`` prompt tokens; values at editable positions are ignored.
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
        """Return the state after a forward, without changing the arguments.

        Args:
            state: The blocks that were fed to the model; no row has converged.
            logits: ``[R, T, V]`` logits of the token at each position; with extra blocks ``[R, 1 + C, T, V]``, the
                block's own first. V is the number of rows of the model's table, which may be padded: ``-inf`` for the
                mask token, and for ids from ``special.vocab_size`` on.
            special: The special ids.
        """

    def max_steps(self, block_length: int) -> int:
        """Return the most forwards spent on one block of ``block_length`` tokens."""
        return self.max_steps_per_token * block_length if self._max_steps is None else self._max_steps

    @property
    def extra_blocks(self) -> int:
        """Number of further copies of the block that each forward processes (C): drafts to verify, a shadow, ...

        They have the block's positions, attend to the same earlier blocks, and share its forward. The engine reports
        their cost as :attr:`dmaxlit.engine.DecodedSequence.num_extra_blocks`.
        """
        return 0

    @property
    def reads_progress(self) -> bool:
        """Whether :meth:`step` may read ``state.progress_before``, which takes time to compute.

        By default true of all but dmaxlit's own decoders, of which one that reads it overrides this.
        """
        return not type(self).__module__.startswith("dmaxlit.")

    def block_attention_mask(self, length: int) -> Tensor:
        """Return who attends to whom within a block, ``[(1 + C) T, (1 + C) T]`` bool from query to key.

        The block itself comes first, then its extra blocks. By default each attends only to itself.

        Args:
            length: Tokens of the block (T).
        """
        copy = torch.arange(1 + self.extra_blocks).repeat_interleave(length)
        return copy[:, None] == copy[None, :]

    # The two methods below are the engine's fast path on a CPU, where the logits of a large vocabulary are most of a
    # forward's cost. Only CommittingDecoder uses it.

    def _needed_positions(self, state: BlockState) -> Tensor | None:
        """Return the positions whose logits :meth:`step` uses, ``[R, T]`` bool; None for all."""
        return None

    def _step_sparse(self, state: BlockState, logits: Tensor, needed: Tensor, special: SpecialTokens) -> BlockState:
        """Call :meth:`step` with the logits of the needed positions (``[n, V]``, row by row) and zeros elsewhere."""
        dense = logits.new_zeros(*needed.shape, logits.shape[-1])
        return self.step(state, dense.index_put_((needed,), logits), special)


DECODERS: Registry[Decoder] = Registry("decoder", "decoders", Decoder)
