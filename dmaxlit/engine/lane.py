"""Requests that are decoded with the same settings, and what the decoder makes of their part of a forward.

Shapes: R rows, one for each open block of each request of the lane; T tokens of a block, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.decoding.admission import AdmissionPolicy
from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.block_states import BlockStates, indices
from dmaxlit.engine.decoder_checks import DecoderChecks
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.inputs import input_embeddings
from dmaxlit.engine.outcome import Outcome, OutcomeReader
from dmaxlit.engine.request import DecodedSequence, Request
from dmaxlit.engine.sampler import RowSampler
from dmaxlit.engine.step import step_of
from dmaxlit.engine.window import resize_windows


class Lane:
    """The requests of a batch that share a decoder and its options.

    :meth:`arrange` names the requests, before the first forward and whenever they change or :attr:`has_moved`.
    :attr:`inputs` are the embeddings of their open blocks, and :meth:`advance` takes the hidden states that the model
    computes of them.

    Args:
        denoiser: The model.
        decoder: Decides the tokens of a block.
        sampler: Random numbers.
        checks: Checks of the decoder.
        eos_ids: The tokens that end a response.
        window: Most open blocks of a request.
        admission: Decides when a window takes in the next block; None for windows of one block.
        watched: Whether the logits of all positions are wanted.

    Attributes:
        has_moved: Whether the open blocks, or what their states say of each other, differ from those before the last
            forward.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        decoder: Decoder,
        sampler: RowSampler,
        checks: DecoderChecks,
        eos_ids: frozenset[int],
        window: int,
        admission: AdmissionPolicy | None,
        watched: bool,
    ) -> None:
        self._denoiser, self._decoder, self._checks = denoiser, decoder, checks
        self._decide = step_of(decoder, denoiser)
        self._embed, self._score = denoiser.embedder(), denoiser.scorer()
        self._eos_ids, self._window, self._watched = eos_ids, window, watched
        self._closes_together = admission is None or admission.closes_together
        self._keeps_closed = admission is not None and admission.keeps_closed
        self._states = BlockStates(denoiser, decoder, sampler, checks)
        self._outcomes = OutcomeReader(denoiser, decoder, admission)
        self._batch: Sequence[Request] = []
        self._blocks = BlockRows([])
        self._state: BlockState | None = None
        self.has_moved = False

    def arrange(self, batch: Sequence[Request]) -> BlockRows:
        """Take the requests of the next forward, in order, and begin the blocks that are new.

        Returns:
            Their open blocks: the rows of :attr:`inputs`.
        """
        previous, self._batch, self._blocks = self._blocks, batch, BlockRows(batch)
        if self._state is None:
            self._state = self._states.open(self._blocks.rows)
        else:
            self._state = self._states.carry(self._state, previous, self._blocks)
        return self._blocks

    @property
    def inputs(self) -> Tensor:
        """Input embeddings of the open blocks, ``[R, (1 + C) T, hidden_size]``, those of extra blocks behind."""
        return input_embeddings(self._embed, self._arranged)

    def advance(self, hidden: Tensor) -> ForwardEvent:
        """Take a step of the decoder, close the blocks that are done, and with them the responses that end.

        Args:
            hidden: Hidden states of :attr:`inputs`.
        """
        batch, blocks, before = self._batch, self._blocks, self._arranged
        copy = before.select(indices(range(len(blocks.rows)), before)) if self._checks.due else None
        state, logits = self._step(before, hidden)
        if copy is not None:
            self._checks.check_step(before, copy, state)
        if state.sampling is not before.sampling:  # a decoder that makes its states from nothing leaves it out
            state = replace(state, sampling=before.sampling)
        for request in batch:
            request.count_forward(self._decoder.extra_blocks)

        outcome = self._outcomes.read(batch, blocks, before, state, logits, hidden)
        finished, closed = self._close(outcome)
        self.has_moved = bool(closed) or self._window > 1
        if self._window > 1:
            ended = finished.keys() | outcome.failed.keys()
            going_on = [request for request in batch if request.index not in ended]
            restarted = resize_windows(going_on, blocks, outcome, self._window, self._eos_ids, self._keeps_closed)
            state = self._states.restart(state, blocks, restarted)
        # Before the next forward, no block of a window has converged.
        self._state = replace(state, converged=torch.zeros_like(state.converged)) if self._window > 1 else state
        return ForwardEvent(
            blocks.prompt_indices,
            blocks.starts,
            state,
            logits if self._watched else None,  # else those of a forward would be kept during the next
            closed,
            finished,
            outcome.failed,
        )

    def warn_of_limit(self) -> None:
        """Warn if a decoder of one's own has not converged on any block."""
        self._checks.warn_of_limit()

    @property
    def _arranged(self) -> BlockState:
        assert self._state is not None, "no requests yet"
        return self._state

    def _step(self, state: BlockState, hidden: Tensor) -> tuple[BlockState, Tensor | None]:
        """Take a step of the decoder.

        Args:
            state: The blocks as they were fed to the model.
            hidden: Their hidden states.

        Returns:
            The state after the step, and the logits of the blocks, ``[R, T, V]``, or None if only those were computed
            that the decoder needs.
        """
        # Picking positions would wait for a GPU, which has more speed to spare than a CPU.
        needed = None if self._watched or hidden.device.type != "cpu" else self._decoder._needed_positions(state)
        logits = self._score(hidden if needed is None else hidden[needed])
        if needed is not None:
            return self._decoder._step_sparse(state, logits, needed, self._denoiser.special), None
        if not self._decoder.extra_blocks:
            return self._decide(state, logits, self._denoiser.special), logits
        logits = logits.view(len(state.ids), 1 + self._decoder.extra_blocks, -1, logits.shape[-1])
        return self._decide(state, logits, self._denoiser.special), logits[:, 0]

    def _close(self, outcome: Outcome) -> tuple[dict[int, DecodedSequence], dict[int, list[int]]]:
        """Close the front blocks that are done, and those behind them.

        Returns:
            The responses that end with them, by the index of their prompt, and the tokens of the blocks, by row of the
            state.
        """
        finished, closed = {}, {}
        for request in self._batch:
            if request.index in outcome.failed:
                continue
            front = self._blocks.row_of(request.index, request.block_start)
            if not outcome.converged[front] and front not in outcome.at_limit:
                continue
            rows = [self._blocks.row_of(request.index, start) for start in request.open_starts]
            for row, behind in zip(rows, [*rows[1:], None], strict=True):
                converged, tokens = outcome.converged[row], outcome.tokens[row]
                self._checks.count_closed(converged, request.num_steps, tokens[len(request.prompt_tail) :])
                closed[row] = tokens
                closes_next = behind is not None and outcome.converged[behind]
                closes_next = closes_next and self._closes_together and not outcome.restarts[row]
                sequence = request.close(tokens, converged, self._eos_ids, closes_next)
                if sequence is not None:
                    finished[request.index] = sequence
                if sequence is not None or not closes_next:
                    break
        return finished, closed
