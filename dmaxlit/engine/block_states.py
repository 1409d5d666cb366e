"""The states of open blocks: new ones, and those that go on."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.device_copies import on_device
from dmaxlit.engine.block_rows import BlockRow, BlockRows
from dmaxlit.engine.decoder_checks import DecoderChecks
from dmaxlit.engine.sampler import RowSampler


class BlockStates:
    """Makes the states that the next forward reads.

    Args:
        denoiser: The model.
        decoder: Begins the states of blocks.
        sampler: Their random numbers.
        checks: Checks of the decoder.
    """

    def __init__(self, denoiser: Denoiser, decoder: Decoder, sampler: RowSampler, checks: DecoderChecks) -> None:
        self._denoiser, self._decoder, self._sampler, self._checks = denoiser, decoder, sampler, checks

    def open(self, blocks: Sequence[BlockRow]) -> BlockState:
        """Return fresh states of blocks."""
        special, length, device = self._denoiser.special, self._denoiser.block_length, self._denoiser.device
        tails = [block.prompt_tail for block in blocks]
        ids = on_device([tail + [special.mask_id] * (length - len(tail)) for tail in tails], device)
        num_prompt_tokens = on_device([len(tail) for tail in tails], device)
        editable = torch.arange(length, device=device) >= num_prompt_tokens.unsqueeze(1)
        prompt_indices, block_starts = [block.index for block in blocks], [block.start for block in blocks]
        sampling = self._sampler.sampling(prompt_indices, block_starts, length, device)
        state = self._decoder.start(ids, editable, special)
        self._checks.check_start(state, ids, editable)
        return replace(state, sampling=sampling)

    def restart(self, state: BlockState, blocks: BlockRows, rows: Sequence[int]) -> BlockState:
        """Return the states of blocks, some of which begin anew.

        Args:
            state: The states of ``blocks``.
            blocks: The blocks.
            rows: The rows of those that begin anew.
        """
        if not rows:
            return state
        opened = self.open([blocks.rows[row] for row in rows])
        return replace(state, progress_before=None).assign(indices(rows, state), opened)

    def carry(self, state: BlockState, previous: BlockRows, blocks: BlockRows) -> BlockState:
        """Return the states of blocks: those they had where they were open, else fresh ones.

        Args:
            state: The states of ``previous``.
            previous: The blocks that were open.
            blocks: The blocks that are open now.
        """
        if state.progress_before is not None:
            state = replace(state, progress_before=None)
        state = self._carried(state, previous, blocks)
        if blocks.num_behind == 0 or not self._decoder.reads_progress:
            return state
        length, progress = self._denoiser.block_length, state.progress
        before = [blocks.find(block.index, block.start - length) for block in blocks.rows]
        of_front = len(progress)
        rows = indices([of_front if row is None else row for row in before], state)
        return replace(state, progress_before=torch.cat([progress, progress.new_ones(1)])[rows])

    def _carried(self, state: BlockState, previous: BlockRows, blocks: BlockRows) -> BlockState:
        sources = blocks.sources(previous)
        new = [row for row, source in enumerate(sources) if source is None]
        if new:
            opened = self.open([blocks.rows[row] for row in new])
            if len(new) == len(sources):
                return opened
            if len(sources) == len(previous.rows) and all(source in (None, row) for row, source in enumerate(sources)):
                return state.assign(indices(new, state), opened)
            state = state.join(opened)
        elif sources == list(range(len(previous.rows))):
            return state
        behind = itertools.count(len(previous.rows))
        return state.select(indices([next(behind) if source is None else source for source in sources], state))


def indices(rows: Sequence[int], state: BlockState) -> Tensor:
    """Return rows as a tensor on the state's device."""
    return on_device(rows, state.ids.device)
