"""The record of one prompt, forward by forward."""

from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise

import torch
from torch import Tensor

from dmaxlit.viewer import Recording
from dmaxlit.viewer.recording import check_cells

_MAX_START = 2**31


class TokenState(IntEnum):
    """State of a position of a block after a forward."""

    PROMPT = 0
    MASKED = 1
    SOFT = 2
    TOKEN = 3
    COMMITTED = 4


@dataclass(frozen=True, repr=False)
class RowTrace:
    """The record of one prompt: E entries, one for each block of each of its F forwards. Blocks have T tokens.

    F and E differ only for a window of several blocks; the entries of a forward are in the order of their blocks.

    Args:
        start: ``[E]`` first position of the block of each entry.
        ids: ``[E, T]`` int32, the block after the forward.
        confidence: ``[E, T]`` float16, probability of the token proposed at each position by the block's logits (a
            decoder may have used others: ``credit`` raises them, ``psd`` may take those of a draft).
        state: ``[E, T]`` uint8, values of :class:`TokenState`.
        num_tokens: Length of the response; of one that was stopped, the masks of its open blocks count.
        forward: ``[E]`` number of the forward of each entry, from 0. Default: one entry for each forward.
    """

    start: Tensor
    ids: Tensor
    confidence: Tensor
    state: Tensor
    num_tokens: int
    forward: Tensor | None = None

    @property
    def num_forwards(self) -> int:
        """Number of forwards (F)."""
        return len(self.ids) if self.forward is None else int(self.forward[-1]) + 1

    def check(self) -> None:
        """Refuse what no decoding leaves behind; for a record that comes from a file.

        Raises:
            ValueError: If so.
        """
        entries, block_length = self.ids.shape
        shapes = [tensor.shape for tensor in (self.ids, self.confidence, self.state)]
        vectors = [self.start, self.forward_of_entries()]
        if not entries or not block_length or shapes != [self.ids.shape] * 3:
            raise ValueError(f"expected ids, confidence and state of one shape, got {list(map(list, shapes))}")
        if any(vector.shape != (entries,) or vector.dtype != torch.int64 for vector in vectors):
            raise ValueError(f"expected start and forward of {entries} whole numbers, got others")
        if (self.ids.dtype, self.state.dtype) != (torch.int32, torch.uint8) or not self.confidence.is_floating_point():
            raise ValueError(f"expected int32 ids and uint8 states, got {self.ids.dtype} and {self.state.dtype}")
        start, forward = (vector.tolist() for vector in vectors)
        blocks = sorted(set(start))
        if not 0 <= start[0] <= _MAX_START or blocks != [start[0] + block_length * i for i in range(len(blocks))]:
            raise ValueError(f"expected blocks of {block_length} tokens one after the other, got starts {blocks!r:.80}")
        if forward[0] != 0 or any(after - before not in (0, 1) for before, after in pairwise(forward)):
            raise ValueError(f"expected forwards from 0, one after the other, got {forward!r:.80}")
        if int(self.ids.min()) < 0 or int(self.state.max()) > max(TokenState):
            raise ValueError("expected ids from 0 and known states, got others")
        most = len(blocks) * block_length - self._num_prompt_tokens()
        if not 0 <= self.num_tokens <= most:
            raise ValueError(f"expected at most {most} tokens in {len(blocks)} blocks, got {self.num_tokens}")

    def __repr__(self) -> str:
        """Return the counts instead of the tensors."""
        num_forwards, block_length = self.num_forwards, self.ids.shape[1]
        num_blocks = len(self.forwards_per_block())
        return (
            f"RowTrace(num_tokens={self.num_tokens}, num_forwards={num_forwards}, num_blocks={num_blocks}, "
            f"block_length={block_length})"
        )

    def timeline(self) -> tuple[Tensor, Tensor]:
        """Return the whole response after each forward.

        Returns:
            ``[F, num_tokens]`` ids, -1 where there is no token (masked, or the block is not open; a committed
            block keeps its tokens), and ``[F, num_tokens]`` confidences, nan outside the block that is open.
        """
        num_forwards, block_length = self.num_forwards, self.ids.shape[1]
        prompt_length = int(self.start[0]) + self._num_prompt_tokens()
        ids = torch.empty(num_forwards, self.num_tokens, dtype=torch.long)
        confidence = torch.full((num_forwards, self.num_tokens), torch.nan)
        latest = torch.full((self.num_tokens,), -1)
        for entry, forward in enumerate(self.forward_of_entries().tolist()):
            tokens = torch.arange(block_length) + int(self.start[entry]) - prompt_length
            in_response = (tokens >= 0) & (tokens < self.num_tokens)
            decided = in_response & (self.state[entry] != TokenState.MASKED)
            latest[max(int(tokens[-1]) + 1, 0) :] = -1  # blocks that are not open, or no longer
            latest[tokens[decided]] = self.ids[entry, decided].long()
            latest[tokens[in_response & ~decided]] = -1
            ids[forward] = latest
            confidence[forward, tokens[in_response]] = self.confidence[entry, in_response].float()
        return ids, confidence

    def finalized(self, ids: Tensor | None = None) -> Tensor:
        """Return the forward, from 1, at which each token of the response took its final value, ``[num_tokens]``.

        Args:
            ids: The ids of :meth:`timeline`, if they are at hand.
        """
        if ids is None:
            ids, _ = self.timeline()
        differs = ids != ids[-1]
        forward = torch.arange(1, ids.shape[0] + 1).unsqueeze(1)
        return (forward * differs).amax(0) + 1 if self.num_tokens else torch.zeros(0, dtype=torch.long)

    def block_of(self) -> Tensor:
        """Return the number of the block of each token of the response, from 0, ``[num_tokens]``."""
        return (torch.arange(self.num_tokens) + self._num_prompt_tokens()) // self.ids.shape[1]

    def forwards_per_block(self) -> Tensor:
        """Return the number of forwards in which each block was open, in order."""
        counts: Tensor = torch.unique(self.start, return_counts=True)[1]
        return counts

    def forward_of_entries(self) -> Tensor:
        """Return the number of the forward of each entry, from 0, ``[E]``."""
        return torch.arange(len(self.ids)) if self.forward is None else self.forward

    def recording(self, prompt: str = "") -> Recording:
        """Return what the viewer shows.

        Args:
            prompt: Text of the prompt.

        Raises:
            UserError: If it is too large for a browser.
        """
        check_cells(self.num_forwards, self.num_tokens)
        ids, confidence = self.timeline()
        state, _ = replace(self, ids=self.state.int()).timeline()  # that of tokens; -1 where there is none
        is_open = ~confidence.isnan()
        state = torch.where(state >= 0, state, is_open * TokenState.MASKED)
        counts = self.forwards_per_block().tolist()
        return Recording(ids, confidence, state, self.finalized(ids), self.block_of(), counts, prompt)

    def _num_prompt_tokens(self) -> int:
        """Return the number of prompt tokens in the first block."""
        return int((self.state[0] == TokenState.PROMPT).sum())
