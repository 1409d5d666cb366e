"""What happened at every forward: a record each decoder can leave, written and read as one file."""

import json
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
    """What a position of a block holds after a forward."""

    PROMPT = 0
    MASKED = 1
    SOFT = 2
    TOKEN = 3
    COMMITTED = 4


@dataclass(frozen=True)
class RowTrace:
    """The record of one prompt.

    Args:
        start: ``[F]`` first position of the block of each of the row's forwards.
        ids: ``[F, T]`` int32, the canvas after the forward.
        confidence: ``[F, T]`` float16, probability of the token proposed at each position by the canvas's logits (a
            decoder may have acted on others: ``credit`` raises them, ``psd`` may take those of a draft).
        state: ``[F, T]`` uint8, values of :class:`TokenState`.
        num_tokens: Length of the response.
    """

    start: Tensor
    ids: Tensor
    confidence: Tensor
    state: Tensor
    num_tokens: int

    def timeline(self) -> tuple[Tensor, Tensor]:
        """Every position of the response along its block's forwards.

        Returns:
            ``[F, num_tokens]`` ids, -1 where there is no token (masked, or the block is not open yet; a committed
            block keeps its tokens), and ``[F, num_tokens]`` confidences, nan where the block is not the open one.
        """
        forwards, length = self.ids.shape
        first = int(self.start[0]) + int((self.state[0] == TokenState.PROMPT).sum())
        ids = torch.full((forwards, self.num_tokens), -1, dtype=torch.long)
        confidence = torch.full((forwards, self.num_tokens), torch.nan)
        for at in range(forwards):
            places = torch.arange(length) + int(self.start[at]) - first
            shown = (places >= 0) & (places < self.num_tokens)
            visible = shown & (self.state[at] != TokenState.MASKED)
            ids[at:, places[visible]] = self.ids[at, visible].long()
            ids[at, places[shown & ~visible]] = -1
            confidence[at, places[shown]] = self.confidence[at, shown].float()
        return ids, confidence

    def finalized(self) -> Tensor:
        """Number of the forward, from 1, at which each token of the response took its final value, ``[num_tokens]``."""
        ids, _ = self.timeline()
        differs = ids != ids[-1]
        forward = torch.arange(1, ids.shape[0] + 1).unsqueeze(1)
        return (forward * differs).amax(0) + 1 if self.num_tokens else torch.zeros(0, dtype=torch.long)

    def block_of(self) -> Tensor:
        """Number of the block each token of the response belongs to, from 0, ``[num_tokens]``."""
        length = self.ids.shape[1]
        first = int((self.state[0] == TokenState.PROMPT).sum())
        return (torch.arange(self.num_tokens) + first) // length

    def forwards_per_block(self) -> Tensor:
        """Forwards spent on each block, in order."""
        counts: Tensor = torch.unique_consecutive(self.start, return_counts=True)[1]
        return counts


class Trace:
    """Records of the prompts of one call of ``generate``.

    Pass an empty one to ``generate``; off by default, because each forward then waits for the device.
    """

    def __init__(self, rows: Mapping[int, RowTrace] | None = None) -> None:
        self.rows: dict[int, RowTrace] = dict(rows or {})
        self._open: dict[int, list[tuple[int, Tensor, Tensor, Tensor]]] = {}

    def record(self, event: ForwardEvent) -> None:
        """Add a forward."""
        state = event.state
        condition = torch.full_like(state.ids, TokenState.TOKEN)
        if state.soft is not None:
            condition[state.soft.where] = TokenState.SOFT
        condition[state.masked] = TokenState.MASKED
        ids = state.ids.clone()
        for place, block in event.closed.items():
            ids[place] = torch.tensor(block, device=ids.device)
            condition[place] = TokenState.COMMITTED
        condition[~state.editable] = TokenState.PROMPT
        parts = {"ids": ids, "confidence": propose(state, event.logits).confidence, "state": condition}
        ids, confidence, condition = (part.to("cpu", _DTYPES[name]) for name, part in parts.items())
        for place, (index, start) in enumerate(zip(event.index, event.start, strict=True)):
            self._open.setdefault(index, []).append((start, ids[place], confidence[place], condition[place]))
        for index, row in event.finished.items():
            starts, *tensors = zip(*self._open.pop(index), strict=True)
            parts = dict(zip(_DTYPES, map(torch.stack, tensors), strict=True))
            self.rows[index] = RowTrace(torch.tensor(starts), **parts, num_tokens=row.num_tokens)

    def save(self, path: str | Path) -> None:
        """Write all rows to one safetensors file, whole or not at all.

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
        if path.exists() and not path.is_file():
            raise UserError(f"trace: expected a file to write, got {str(path)!r}, which is none")
        try:
            with staged_file(path) as staging:
                save_file(tensors, staging, metadata={"format": _FORMAT, "rows": json.dumps(header)})
        except (OSError, SafetensorError) as error:
            raise UserError(f"trace: cannot write {str(path)!r} ({error})") from error

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: If there is no such file, or it holds no trace.
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
        parts = {name: tensor.split(header["forwards"]) for name, tensor in tensors.items()}
        rows = {
            index: RowTrace(**{name: split[at] for name, split in parts.items()}, num_tokens=header["tokens"][at])
            for at, index in enumerate(header["index"])
        }
        return cls(rows)
