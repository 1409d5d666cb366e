"""The loop that decodes prompts block by block; nothing else calls a model to decode.

Shapes: R rows, one for each open block of each request; T tokens of a block, V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.decoding.admission import AdmissionPolicy, make_admission
from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.engine.block_forward import BlockForward
from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.block_states import BlockStates, indices
from dmaxlit.engine.decoder_checks import DecoderChecks
from dmaxlit.engine.end_of_response import eos_ids
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.inputs import input_embeddings
from dmaxlit.engine.outcome import Outcome, OutcomeReader
from dmaxlit.engine.request import DecodedSequence, Request, make_requests
from dmaxlit.engine.sampler import Sampler
from dmaxlit.engine.stop_strings import StopStrings
from dmaxlit.engine.trace import Trace
from dmaxlit.engine.window import check_window, resize_windows
from dmaxlit.errors import UserError, check_at_least

__all__ = ["BlockDecoder"]


class BlockDecoder:
    """Decodes prompts block by block, many at a time.

    Prompts of different lengths and at different blocks share forwards, exactly: the tokens and the number of forwards
    of each are those it has alone. When a response is done, the next prompt takes over its row at once. Each forward is
    followed by one transfer from the device, which tells the blocks that are done.

    A block whose number of forwards reaches the decoder's ``max_steps`` is closed unconverged; remaining masks take the
    top-1 token of the block's logits, so the mask token is never part of a response.

    With a ``window``, up to so many blocks of a prompt are denoised in one forward, each a row of its own to the
    decoder, and attending to those before it as they are. The front block alone is closed, when it has converged, and
    with it those behind it that have too. Its forwards count from when it is the front block. An EOS closes the window
    behind it: blocks there are dropped, and begun anew if the EOS is revised away.

    Args:
        denoiser: The model.
        decoder: Decides the tokens of a block.
        batch_size: Most prompts that share a forward, at least 1.
        use_cache: Cache the keys and values of decided tokens; False recomputes everything at each forward, for
            reference.
        max_forwards: Most forwards for one prompt, at least 1; None for no limit. A prompt that reaches it has its
            block closed as above, and its response ends there.
        sampler: Temperature, nucleus and seed; default: the most probable tokens.
        stop: Texts that end a response as EOS does. Its tokens include the one that completes the text.
        compile: Compile the model's forwards (``torch.compile``; CUDA graphs on a GPU) in a few fixed shapes. The first
            forwards of each shape take long, so this pays for many prompts only.
        check_decoder: Check what a decoder that is not dmaxlit's own returns in the first forwards of a call.
        window: Most blocks of a prompt that are open at once, at least 1.
        admission: Decides when the block behind the last open one is opened too; a policy or its name.

    Raises:
        UserError: For a limit below 1, or a window of several blocks if the forwards are compiled or the decoder reads
            several versions of a block.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        decoder: Decoder,
        batch_size: int = 64,
        use_cache: bool = True,
        max_forwards: int | None = None,
        sampler: Sampler | None = None,
        stop: Sequence[str] = (),
        compile: bool = False,
        check_decoder: bool = True,
        window: int = 1,
        admission: str | AdmissionPolicy = "progress",
    ) -> None:
        check_at_least(1, batch_size=batch_size, max_forwards=max_forwards)
        check_window(window, decoder)
        if window > 1 and compile:
            raise UserError(f"window: expected 1 for compiled forwards, got {window}")
        self.denoiser = denoiser
        self.decoder = decoder
        self.batch_size = batch_size
        self.use_cache = use_cache
        self.max_forwards = max_forwards
        self.compile = compile
        self.check_decoder = check_decoder
        self.window = window
        self.admission = make_admission(admission)
        self.sampler = sampler or Sampler()
        self.eos_ids = eos_ids(denoiser)
        self.stop = StopStrings(denoiser.tokenizer, stop) if stop else None

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: bool | Callable[[int], object] = False,
        trace: Trace | None = None,
        on_finished: Callable[[int, DecodedSequence], object] | None = None,
    ) -> list[DecodedSequence]:
        """Decode prompts, in eval mode whatever mode the model is in.

        Args:
            prompts: Token ids of each prompt. An empty one is allowed: the response then depends on nothing. Mask and
                EOS tokens in a prompt are ordinary data.
            max_new_tokens: Most tokens of each response, EOS included, at least 1; fewer where prompt and response
                would not fit the context. The last block is decoded whole and then cut off.
            progress: Show a progress bar, or call this with the number of responses finished since the last call.
            trace: Records every forward.
            on_finished: Called with the index of a prompt and its sequence as soon as that is finished.

        Returns:
            One sequence per prompt, in order.

        Raises:
            UserError: If there are no prompts, or one leaves no room for a response.
        """
        sequences: dict[int, DecodedSequence] = {}
        with (
            torch.no_grad(),
            _evaluating(self.denoiser),
            tqdm(total=len(prompts), unit="prompt", disable=progress is not True) as bar,
        ):
            for event in self._decode(self._requests(prompts, max_new_tokens), watched=trace is not None):
                if trace is not None:
                    trace.record(event)
                if not event.finished:
                    continue
                sequences |= event.finished
                bar.update(len(event.finished))
                if callable(progress):
                    progress(len(event.finished))
                if on_finished is not None:
                    for index, sequence in event.finished.items():
                        on_finished(index, sequence)
        return [sequences[index] for index in range(len(prompts))]

    def forwards(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[ForwardEvent]:
        """Decode prompts and yield an event after each forward. Arguments as of :meth:`decode`."""
        events = self._decode(self._requests(prompts, max_new_tokens), watched=True)
        while True:
            # Between two forwards, grad mode and eval mode are the caller's.
            with torch.no_grad(), _evaluating(self.denoiser):
                event = next(events, None)
            if event is None:
                return
            yield event

    def _requests(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Request]:
        denoiser = self.denoiser
        return make_requests(prompts, max_new_tokens, denoiser.block_length, denoiser.max_length, denoiser.vocab_size)

    def _decode(self, requests: Sequence[Request], watched: bool) -> Iterator[ForwardEvent]:
        """Yield one event per forward; if watched, with the logits of all positions."""
        denoiser = self.denoiser
        checks = DecoderChecks(
            self.decoder, denoiser.special, denoiser.vocab_size, denoiser.block_length, self.check_decoder
        )
        queue = deque(requests)
        batch = [queue.popleft() for _ in range(min(self.batch_size, len(queue)))]
        forward = self._make_forward(len(batch), max(request.length for request in requests))
        batch = [batch[row] for row in forward.group_order(batch, range(len(batch)))]
        blocks = BlockRows(batch)
        states = BlockStates(denoiser, self.decoder, self.sampler, checks)
        admission = self.admission if self.window > 1 else None
        outcomes = OutcomeReader(denoiser, self.decoder, self.max_forwards, admission)
        state = states.open(blocks.rows)
        while batch:
            # One forward of the model and one step of the decoder.
            hidden = forward(batch, input_embeddings(self.denoiser.embed, state))
            copy = state.select(indices(range(len(blocks.rows)), state)) if checks.due else None
            before, (state, logits) = state, self._advance(state, hidden, watched)
            if copy is not None:
                checks.check_step(before, copy, state)
            for request in batch:
                request.count_forward(self.decoder.extra_blocks)

            # Blocks that are done are closed, and with them some responses.
            outcome = outcomes.read(batch, blocks, before, state, logits, hidden)
            ended, closed = self._close(batch, blocks, outcome, checks)
            finished = {batch[row].index: sequence for row, sequence in ended.items()}
            yield ForwardEvent(
                [block.index for block in blocks.rows],
                [block.start for block in blocks.rows],
                state,
                logits,
                closed,
                finished,
            )

            # The next prompts take over the rows of finished ones, and the next blocks begin.
            if self.window > 1:
                resize_windows(batch, blocks, outcome, self.window, self.eos_ids)
                state = replace(state, converged=torch.zeros_like(state.converged))
            vacant = set()
            for row in ended:
                if queue:
                    batch[row] = queue.popleft()
                else:
                    vacant.add(row)

            # Requests that will share a forward become neighbours.
            order = forward.group_order(batch, [row for row in range(len(batch)) if row not in vacant])
            if order != list(range(len(batch))):
                batch = [batch[row] for row in order]
                forward.reorder(order)
            previous, blocks = blocks, BlockRows(batch)
            state = states.carry(state, previous, blocks)
        checks.warn_of_limit()

    def _make_forward(self, num_rows: int, max_length: int) -> BlockForward:
        denoiser, mask = self.denoiser, None
        if self.decoder.extra_blocks:
            mask = self.decoder.block_attention_mask(denoiser.block_length).to(denoiser.device)
        window = min(self.window, -(-max_length // denoiser.block_length))  # more are never open
        return BlockForward(denoiser, num_rows, max_length, self.use_cache, mask, self.compile, window)

    def _advance(self, state: BlockState, hidden: Tensor, watched: bool) -> tuple[BlockState, Tensor | None]:
        """Take a step of the decoder.

        Args:
            state: The blocks as they were fed to the model.
            hidden: Their hidden states, ``[R, T, hidden_size]``, those of extra blocks behind.
            watched: Whether the logits of all positions are wanted.

        Returns:
            The state after the step, and the logits of the blocks, ``[R, T, V]``, or None if only those were computed
            that the decoder needs.
        """
        # Picking positions would wait for a GPU, which has more speed to spare than a CPU.
        needed = None if watched or hidden.device.type != "cpu" else self.decoder._needed_positions(state)
        logits = self.denoiser.logits(hidden if needed is None else hidden[needed])
        if needed is not None:
            return self.decoder._step_sparse(state, logits, needed, self.denoiser.special), None
        if not self.decoder.extra_blocks:
            return self.decoder.step(state, logits, self.denoiser.special), logits
        logits = logits.view(len(state.ids), 1 + self.decoder.extra_blocks, -1, logits.shape[-1])
        return self.decoder.step(state, logits, self.denoiser.special), logits[:, 0]

    def _close(
        self, batch: Sequence[Request], blocks: BlockRows, outcome: Outcome, checks: DecoderChecks
    ) -> tuple[dict[int, DecodedSequence], dict[int, list[int]]]:
        """Close the front blocks that are done, and those behind them.

        Returns:
            The responses that end with them, by row of the batch, and the tokens of the blocks, by row of the state.
        """
        ended, closed = {}, {}
        for batch_row, request in enumerate(batch):
            last = request.num_forwards == self.max_forwards
            for start in request.open_starts:
                row = blocks.row_of(request.index, start)
                converged, tokens = outcome.converged[row], outcome.tokens[row]
                if not converged and row not in outcome.at_limit:
                    break
                checks.count_closed(converged, request.num_steps, tokens[len(request.prompt_tail) :])
                closed[row] = tokens
                sequence = request.close(tokens, converged, self.eos_ids, last, self.stop)
                if sequence is not None:
                    ended[batch_row] = sequence
                    break
        return ended, closed


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and restore every submodule's own mode afterwards."""
    training = [submodule for submodule in module.modules() if submodule.training]
    module.eval()
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True
