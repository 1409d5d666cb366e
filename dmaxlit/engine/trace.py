"""A record of every forward of every prompt, in memory or in one file."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dmaxlit.decoding.proposal import propose
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.errors import UserError
from dmaxlit.files import staged_file

__all__ = ["RowTrace", "TokenState", "Trace"]

_FORMAT = "dmaxlit-trace-1"
_DTYPES = {"ids": torch.int32, "confidence": torch.float16, "state": torch.uint8}


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
        num_tokens: Length of the response.
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
            ``[F, num_tokens]`` ids, -1 where there is no token (masked, or the block is not open yet; a committed
            block keeps its tokens), and ``[F, num_tokens]`` confidences, nan outside the block that is open.
        """
        num_forwards, block_length = self.num_forwards, self.ids.shape[1]
        prompt_length = int(self.start[0]) + self._num_prompt_tokens()
        ids = torch.full((num_forwards, self.num_tokens), -1, dtype=torch.long)
        confidence = torch.full((num_forwards, self.num_tokens), torch.nan)
        for entry, forward in enumerate(self.forward_of_entries().tolist()):
            tokens = torch.arange(block_length) + int(self.start[entry]) - prompt_length
            in_response = (tokens >= 0) & (tokens < self.num_tokens)
            decided = in_response & (self.state[entry] != TokenState.MASKED)
            ids[forward:, tokens[decided]] = self.ids[entry, decided].long()
            ids[forward:, tokens[in_response & ~decided]] = -1
            confidence[forward, tokens[in_response]] = self.confidence[entry, in_response].float()
        return ids, confidence

    def finalized(self) -> Tensor:
        """Return the forward, from 1, at which each token of the response took its final value, ``[num_tokens]``."""
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

    def _num_prompt_tokens(self) -> int:
        """Return the number of prompt tokens in the first block."""
        return int((self.state[0] == TokenState.PROMPT).sum())


class Trace:
    """Records of the prompts of one call of ``generate``, by the prompts' indices.

    Pass an empty one to ``generate``. Off by default, because tracing computes all logits and makes each forward wait
    for the device.
    """

    def __init__(self, rows: Mapping[int, RowTrace] | None = None) -> None:
        self.rows: dict[int, RowTrace] = dict(rows or {})
        self._unfinished: dict[int, list[list[tuple[int, Tensor, Tensor, Tensor]]]] = {}

    def __repr__(self) -> str:
        """Return the number of prompts and forwards."""
        forwards = sum(row.num_forwards for row in self.rows.values())
        return f"Trace({len(self.rows)} prompts, {forwards} forwards)"

    def record(self, event: ForwardEvent) -> None:
        """Add a forward."""
        assert event.logits is not None, "a trace needs the logits of all positions"
        block = event.state
        state = torch.full_like(block.ids, TokenState.TOKEN)
        if block.soft is not None:
            state[block.soft.where] = TokenState.SOFT
        state[block.masked] = TokenState.MASKED
        ids = block.ids.clone()
        for row, tokens in event.closed.items():
            ids[row] = torch.tensor(tokens, device=ids.device)
            state[row] = TokenState.COMMITTED
        state[~block.editable] = TokenState.PROMPT
        fields = {"ids": ids, "confidence": propose(block, event.logits).confidence, "state": state}
        ids, confidence, state = (tensor.to("cpu", _DTYPES[name]) for name, tensor in fields.items())
        entries = defaultdict(list)
        for row, (index, start) in enumerate(zip(event.prompt_indices, event.block_starts, strict=True)):
            entries[index].append((start, ids[row], confidence[row], state[row]))
        for index, blocks in entries.items():
            self._unfinished.setdefault(index, []).append(sorted(blocks, key=lambda entry: entry[0]))
        for index, sequence in event.finished.items():
            forwards = self._unfinished.pop(index)
            starts, *columns = zip(*(entry for blocks in forwards for entry in blocks), strict=True)
            tensors = dict(zip(_DTYPES, map(torch.stack, columns), strict=True))
            widths = torch.tensor([len(blocks) for blocks in forwards])
            forward = None if bool((widths == 1).all()) else torch.arange(len(widths)).repeat_interleave(widths)
            self.rows[index] = RowTrace(
                torch.tensor(starts), **tensors, num_tokens=sequence.num_tokens, forward=forward
            )

    def save(self, path: str | Path) -> None:
        """Write all records to one safetensors file, complete or not at all.

        Raises:
            UserError: If it cannot be written.
        """
        path = Path(path)
        order = sorted(self.rows)
        rows = [self.rows[index] for index in order]
        tensors = (
            {name: torch.cat([getattr(row, name) for row in rows]) for name in ("start", *_DTYPES)} if rows else {}
        )
        header = {"index": order, "forwards": [len(r.start) for r in rows], "tokens": [r.num_tokens for r in rows]}
        if any(row.forward is not None for row in rows):
            tensors["forward"] = torch.cat([row.forward_of_entries() for row in rows])
        if path.exists() and not path.is_file():
            raise UserError(f"trace: expected a file to write, got {str(path)!r}, which is none")
        try:
            with staged_file(path) as staging:
                save_file(tensors, staging, metadata={"format": _FORMAT, "rows": json.dumps(header)})
        except (OSError, SafetensorError) as error:
            raise UserError(f"trace: cannot write {str(path)!r} ({error})") from error

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read a file written by :meth:`save`.

        Raises:
            UserError: If there is no such file, or it is not a trace.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError) as error:
            raise UserError(f"trace: cannot read {str(path)!r} ({error})") from error
        if metadata.get("format") != _FORMAT:
            raise UserError(f"trace: expected a file that dmaxlit's Trace has written, got {str(path)!r}")
        header = json.loads(metadata["rows"])
        split = {name: tensor.split(header["forwards"]) for name, tensor in tensors.items()}
        rows = {
            index: RowTrace(**{name: chunks[i] for name, chunks in split.items()}, num_tokens=header["tokens"][i])
            for i, index in enumerate(header["index"])
        }
        return cls(rows)
