"""What the engine reports of each forward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState
from dmaxlit.engine.request import DecodedSequence
from dmaxlit.engine.row_trace import TokenState

__all__ = ["ForwardEvent"]


@dataclass(frozen=True)
class ForwardEvent:
    """The outcome of one forward of a batch of R blocks of T tokens.

    Args:
        prompt_indices: Index of the prompt in each row.
        block_starts: Position at which each row's block begins.
        state: The blocks after the decoder's step; those that begin anew as they begin.
        logits: ``[R, T, V]`` logits of the blocks; None if nobody asked for those of all positions.
        closed: Tokens of each block that is done, prompt tokens included, by row.
        finished: Responses that are done, by the index of their prompt.
        failed: Why prompts take part in no further forward, by their index; their blocks mean nothing.
    """

    prompt_indices: list[int]
    block_starts: list[int]
    state: BlockState
    logits: Tensor | None
    closed: dict[int, list[int]]
    finished: dict[int, DecodedSequence]
    failed: dict[int, str]

    def rows_of(self, prompt_index: int) -> list[int]:
        """Return the rows of a prompt, in the order of its text."""
        rows = (row for row, index in enumerate(self.prompt_indices) if index == prompt_index)
        return sorted(rows, key=self.block_starts.__getitem__)

    def closed_tokens(self, prompt_index: int) -> list[int]:
        """Return the response's tokens of the blocks of a prompt that are done, in order."""
        tokens: list[int] = []
        for row in filter(self.closed.__contains__, self.rows_of(prompt_index)):
            editable = self.state.editable[row].tolist()
            tokens += [token for token, is_ours in zip(self.closed[row], editable, strict=True) if is_ours]
        return tokens

    def positions(self) -> tuple[Tensor, Tensor]:
        """Return token and :class:`~dmaxlit.engine.row_trace.TokenState` of every position, each ``[R, T]``."""
        block = self.state
        state = torch.full_like(block.ids, TokenState.TOKEN)
        if block.soft is not None:
            state[block.soft.where] = TokenState.SOFT
        state[block.masked] = TokenState.MASKED
        ids = block.ids.clone()
        for row, tokens in self.closed.items():
            ids[row] = torch.tensor(tokens, device=ids.device)
            state[row] = TokenState.COMMITTED
        state[~block.editable] = TokenState.PROMPT
        return ids, state
