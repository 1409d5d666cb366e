"""Checks of what a user's own decoder returns, in the first forwards of a call.

They cost a few small tensor operations and a transfer from the device, and spare a user answers that are nonsense.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.engine.state_rules import STATE_RULES, NewBlocks
from dmaxlit.errors import DMaxWarning, UserError, describe_value
from dmaxlit.tokens import SpecialTokens

_NUM_FORWARDS = 16


class DecoderChecks:
    """Checks the states that a decoder returns; its own decoders are not checked, for the tests of dmaxlit do that.

    Args:
        decoder: The decoder.
        special: The special ids.
        vocab_size: Number of token ids.
        block_length: Tokens of a block (T).
        enabled: Whether to check anything.

    Raises:
        UserError: If ``max_steps`` of the decoder is no bound, or ``block_attention_mask`` no mask of its blocks.
    """

    def __init__(
        self, decoder: Decoder, special: SpecialTokens, vocab_size: int, block_length: int, enabled: bool
    ) -> None:
        self._decoder, self._special, self._vocab_size = decoder, special, vocab_size
        self._length = block_length
        self._name = f"decoder {type(decoder).__name__}"
        self._enabled = enabled and not type(decoder).__module__.startswith("dmaxlit.")
        self._num_checked = self._num_converged = self._num_at_limit = self._bound = 0
        if self._enabled:
            self.check_bound()
            self.check_block_mask()

    @property
    def due(self) -> bool:
        """Whether the next state is to be checked."""
        return self._enabled and self._num_checked < _NUM_FORWARDS

    def check_start(self, state: object, ids: Tensor, editable: Tensor) -> None:
        """Check the state of new blocks.

        Args:
            state: What ``start`` returned.
            ids: ``[R, T]`` the argument of ``start``.
            editable: ``[R, T]`` bool, likewise.

        Raises:
            UserError: For the first rule that it breaks.
        """
        if self.due:
            valid = self.check_types("start", state, ids)
            self._check_contents("start", valid, ids, editable)

    def check_step(self, before: BlockState, copy: BlockState, after: object) -> None:
        """Check the state after a step.

        Args:
            before: The argument of ``step``.
            copy: A copy of it, from before the step.
            after: What ``step`` returned.

        Raises:
            UserError: For the first rule that it breaks.
        """
        self._num_checked += 1
        for name in ("ids", "editable", "masked", "step", "converged"):
            if not torch.equal(getattr(before, name), getattr(copy, name)):
                raise UserError(f"{self._name}: expected step to leave its state unchanged, but it wrote to {name}")
        valid = self.check_types("step", after, copy.ids)
        self._check_contents("step", valid, copy.ids, copy.editable)
        if not torch.equal(valid.step, copy.step + 1):
            raise UserError(f"{self._name}: expected step to count a forward (state.advance does), got another count")
        self.check_kept(copy, valid)

    def check_kept(self, before: BlockState, after: BlockState) -> None:
        """Check that two states have the same optional tensors, lest the engine cannot join new blocks to others.

        Args:
            before: A state that goes back to ``start``.
            after: The state after a step.

        Raises:
            UserError: For the first tensor that only one has, or that has another shape.
        """
        old, new = _optional_tensors(before), _optional_tensors(after)
        for name in sorted({*old, *new}):
            if name not in old or name not in new:
                lacking, other = ("start", "step") if name not in old else ("step", "start")
                raise UserError(f"{self._name}: expected {lacking} to return {name}, as {other} does, got none")
            if old[name].shape != new[name].shape:
                raise UserError(
                    f"{self._name}: expected {name} of step to be of shape {list(old[name].shape)}, as that of start, "
                    f"got {describe_value(new[name])}"
                )

    def count_closed(self, converged: bool, num_steps: int, tokens: list[int]) -> None:
        """Count a block that is done, at any forward.

        Args:
            converged: Whether the decoder says that it has converged.
            num_steps: Forwards spent on it.
            tokens: Its tokens, without those of the prompt.

        Raises:
            UserError: If the mask token is one of them.
        """
        if not self._enabled:
            return
        self._num_converged += converged
        self._num_at_limit += not converged and num_steps >= self._bound
        if self._special.mask_id in tokens:
            raise UserError(
                f"{self._name}: expected a converged block without masks, got one with "
                f"{tokens.count(self._special.mask_id)} mask tokens"
            )

    def warn_of_limit(self) -> None:
        """Warn if no block has converged."""
        if self._num_at_limit and not self._num_converged:
            warnings.warn(
                f"{self._name}: none of {self._num_at_limit} blocks has converged within the {self._bound} forwards of "
                "its max_steps; tokens undecided by then are the most probable ones",
                DMaxWarning,
                stacklevel=2,
            )

    def check_bound(self) -> None:
        """Check the decoder's ``max_steps``.

        Raises:
            UserError: If it is no bound, or beyond the option of that name.
        """
        max_steps: Any = self._decoder.max_steps
        bound = max_steps(self._length) if callable(max_steps) else max_steps
        if not callable(max_steps) or isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
            raise UserError(
                f"{self._name}: expected max_steps(block_length) to return a whole number of at least 1, got {bound!r}"
            )
        option = self._decoder._max_steps
        if option is not None and bound > option:
            raise UserError(f"{self._name}: expected at most the {option} forwards of its max_steps, got {bound}")
        self._bound = bound

    def check_block_mask(self) -> None:
        """Check the type and shape of the decoder's ``block_attention_mask``, which is used if it has extra blocks.

        Raises:
            UserError: If one is wrong.
        """
        mask: object = self._decoder.block_attention_mask(self._length)
        width = (1 + self._decoder.extra_blocks) * self._length
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != (width, width):
            raise UserError(
                f"{self._name}: expected block_attention_mask to return bool of shape {[width, width]}, "
                f"got {describe_value(mask)}"
            )

    def check_types(self, method: str, state: object, ids: Tensor) -> BlockState:
        """Return a state whose types and shapes are right.

        Args:
            method: The method that returned it.
            state: The state.
            ids: ``[R, T]`` ids of the blocks.

        Raises:
            UserError: For the first that is wrong.
        """
        if not isinstance(state, BlockState):
            raise UserError(f"{self._name}: expected {method} to return a BlockState, got {describe_value(state)}")
        rows, length = ids.shape
        expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "ids": ((rows, length), torch.long),
            "editable": ((rows, length), torch.bool),
            "masked": ((rows, length), torch.bool),
            "step": ((rows,), torch.long),
            "converged": ((rows,), torch.bool),
        }
        for name, (shape, dtype) in expected.items():
            self._check_tensor(method, name, getattr(state, name), shape, dtype)
        if (self._decoder.extra_blocks > 0) != (state.extra_blocks is not None):
            raise UserError(
                f"{self._name}: expected {method} to return extra_blocks if and only if the decoder has any "
                f"({self._decoder.extra_blocks}), got {describe_value(state.extra_blocks)}"
            )
        if state.extra_blocks is not None:
            shape = (rows, self._decoder.extra_blocks, length)
            self._check_tensor(method, "extra_blocks", state.extra_blocks, shape, torch.long)
        if state.soft is not None:
            weights = state.soft.weights
            mixtures = (rows, length, weights.shape[-1] if isinstance(weights, Tensor) and weights.dim() else 1)
            self._check_tensor(method, "soft.where", state.soft.where, (rows, length), torch.bool)
            self._check_tensor(method, "soft.weights", weights, mixtures, None)
            self._check_tensor(method, "soft.ids", state.soft.ids, mixtures, torch.long)
        for name, value in state.memory.items():
            if not isinstance(value, Tensor) or value.shape[:1] != (rows,):
                raise UserError(
                    f"{self._name}: expected memory[{name!r}] of {method} to be a tensor with a row for each of the "
                    f"{rows} blocks, got {describe_value(value)}"
                )
        return state

    def _check_tensor(
        self, method: str, name: str, value: object, shape: tuple[int, ...], dtype: torch.dtype | None
    ) -> None:
        is_right = isinstance(value, Tensor) and tuple(value.shape) == shape and dtype in (None, value.dtype)
        if not is_right:
            wanted = "a tensor" if dtype is None else str(dtype).removeprefix("torch.")
            raise UserError(
                f"{self._name}: expected {name} of {method} to be {wanted} of shape {list(shape)}, "
                f"got {describe_value(value)}"
            )

    def _check_contents(self, method: str, state: BlockState, ids: Tensor, editable: Tensor) -> None:
        """Check all rules about values, with one transfer from the device."""
        new = NewBlocks(ids, editable, self._special.mask_id, self._vocab_size)
        found = {rule: rule.broken(state, new) for rule in STATE_RULES}
        broken = {rule: positions.any() for rule, positions in found.items() if positions is not None}
        for rule, is_broken in zip(broken, torch.stack(list(broken.values())).tolist(), strict=True):
            if is_broken:
                raise UserError(f"{self._name}: expected {method} {rule.text.format(last_id=self._vocab_size - 1)}")


def _optional_tensors(state: BlockState) -> dict[str, Tensor]:
    """Return the tensors that not all decoders use; those of ``extra_blocks`` are checked otherwise."""
    soft = {} if state.soft is None else {"soft": state.soft.weights}
    return soft | {f"memory[{name!r}]": value for name, value in state.memory.items()}
