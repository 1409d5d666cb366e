"""What a forward has come to, on the host.

Shapes: R rows, one for each open block of each request; T tokens of a block, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import torch
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.decoding.admission import AdmissionPolicy
from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.block_states import indices
from dmaxlit.engine.request import Request

_NOT_FINITE = "expected finite hidden states of the model, got NaN or inf; float16 overflows where bfloat16 does not"


@dataclass(frozen=True)
class Outcome:
    """What a forward has come to; of each list, an entry for each row of the state.

    Args:
        tokens: Tokens of each block.
        converged: Whether each block has converged.
        admits: Whether the next block is opened behind each block, should it be the last open one of its window.
        restarts: Whether the blocks behind each block begin anew.
        at_limit: Rows of front blocks that have reached a limit.
        failed: Why prompts cannot go on, by their index; what their rows say means nothing.
    """

    tokens: list[list[int]]
    converged: list[bool]
    admits: list[bool]
    restarts: list[bool]
    at_limit: set[int]
    failed: dict[int, str] = field(default_factory=dict)


class OutcomeReader:
    """Reads the outcome of each forward in one transfer from the device.

    Args:
        denoiser: The model.
        decoder: Limits the forwards of a block.
        admission: Decides which windows admit a block; None: none does, and nothing is computed for it.
    """

    def __init__(self, denoiser: Denoiser, decoder: Decoder, admission: AdmissionPolicy | None) -> None:
        self._denoiser, self._admission = denoiser, admission
        self._max_steps = decoder.max_steps(denoiser.block_length)

    def read(
        self,
        batch: Sequence[Request],
        blocks: BlockRows,
        before: BlockState,
        state: BlockState,
        logits: Tensor | None,
        hidden: Tensor,
    ) -> Outcome:
        """Return what a forward has come to. Waits for the device.

        Args:
            batch: The requests, which have counted the forward.
            blocks: Their open blocks, the rows of the state.
            before: The blocks as they were fed to the model.
            state: The blocks after the decoder's step.
            logits: ``[R, T, V]`` logits of the blocks; None if not all of them were computed.
            hidden: Their hidden states, ``[R, T, hidden_size]``; those of extra blocks behind. A prompt of which they
                are not finite has failed.
        """
        at_limit = [
            blocks.num_behind + row
            for row, request in enumerate(batch)
            if request.num_steps >= self._max_steps or request.is_last_forward
        ]
        ids = state.ids
        if at_limit:
            rows = indices(at_limit, state)
            # A decoder may have masked positions again whose logits were not computed.
            top1 = (self._denoiser.logits(hidden[rows]) if logits is None else logits[rows]).argmax(-1)
            ids = ids.index_copy(0, rows, torch.where(state.masked[rows], top1, ids[rows]))

        total = hidden.sum((1, 2), dtype=torch.float32)
        flags = [state.converged, (total - total) != 0]  # NaN - NaN and inf - inf are NaN
        if self._admission is not None:
            flags.append(self._admission.admit(before, state))
            if (restarted := self._admission.restarts_behind(before, state)) is not None:
                flags.append(restarted)
        columns, tokens = _on_host(flags, ids)
        nowhere = [False] * len(tokens)
        converged, is_broken, admits, restarts = [*columns, nowhere, nowhere][:4]
        failed = dict.fromkeys(compress(blocks.prompt_indices, is_broken), _NOT_FINITE)
        return Outcome(tokens, converged, admits, restarts, set(at_limit), failed)


def _on_host(flags: Sequence[Tensor], ids: Tensor) -> tuple[list[list[bool]], list[list[int]]]:
    """Return flags, each ``[R]``, and ids, ``[R, T]``, in one transfer from the device."""
    if ids.device.type == "cpu":  # where to join them takes longer
        return [flag.tolist() for flag in flags], ids.tolist()
    rows = torch.cat([torch.stack(list(flags), 1), ids], 1).tolist()
    num_flags = len(flags)
    return [[bool(row[column]) for row in rows] for column in range(num_flags)], [row[num_flags:] for row in rows]
