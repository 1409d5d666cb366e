"""The only loop that calls a model."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.engine.block_forward import BlockForward
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.inputs import input_embeddings
from dmaxlit.engine.request import DecodedSequence, Request, make_requests
from dmaxlit.engine.sampler import Sampler
from dmaxlit.engine.stop_strings import StopStrings
from dmaxlit.engine.trace import Trace
from dmaxlit.errors import UserError

__all__ = ["BlockDecoder"]


class BlockDecoder:
    """Decodes prompts block by block, many at a time.

    Rows of different length and at different blocks share the forwards, exactly: a row's tokens and its number of
    forwards are those it has alone. A row leaves when it is done, and the next prompt takes its place at once. Each
    iteration reads from the device once, to learn which blocks are done.

    A block whose number of forwards reaches the decoder's ``max_steps`` is closed as it is; masks that are left take
    the top-1 token of the canvas's logits, so the mask token is never part of a response.

    Args:
        denoiser: The model.
        decoder: Decides the tokens of a block.
        batch_size: Most rows that share a forward, at least 1.
        use_cache: Keep keys and values of what is decided; False recomputes everything at each forward, for reference.
        max_forwards: Most forwards for one prompt, at least 1; None for no limit. A row that reaches it closes its
            block as above and leaves.
        sampler: Temperature, nucleus and seed; default: the most probable tokens.
        stop: Texts that end a response like EOS does. Its tokens include the one that completes the text.
        compile: Compile the model's forwards (``torch.compile``; CUDA graphs on a GPU) in a few fixed shapes. The first
            forwards of each shape take long; worth it for many prompts.
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
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {batch_size}")
        if max_forwards is not None and max_forwards < 1:
            raise UserError(f"max_forwards: expected at least 1 or none, got {max_forwards}")
        self.denoiser = denoiser
        self.decoder = decoder
        self.batch_size = batch_size
        self.use_cache = use_cache
        self.max_forwards = max_forwards
        self.compile = compile
        self.sampler = sampler or Sampler()
        self.stop = StopStrings(denoiser.tokenizer, stop) if stop else None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: bool | Callable[[int], object] = False,
        trace: Trace | None = None,
    ) -> list[DecodedSequence]:
        """Decode prompts, in eval mode whatever mode the model is in.

        Args:
            prompts: Token ids of each prompt. An empty one is allowed: the response then depends on nothing. Mask and
                EOS tokens in a prompt are ordinary data.
            max_new_tokens: Budget of tokens for each response, EOS included, at least 1; cut where prompt and response
                would not fit the context. The last block is decoded whole and then cut off.
            progress: Show a progress bar, or call this with the number of responses finished since the last call.
            trace: Takes a record of every forward.

        Returns:
            One row a prompt, in order.

        Raises:
            UserError: If there are no prompts, or one leaves no room for a response.
        """
        done: dict[int, DecodedSequence] = {}
        with (
            torch.no_grad(),
            _evaluating(self.denoiser),
            tqdm(total=len(prompts), unit="prompt", disable=progress is not True) as bar,
        ):
            for event in self._decode(self._rows(prompts, max_new_tokens), watched=trace is not None):
                if trace is not None:
                    trace.record(event)
                if not event.finished:
                    continue
                done |= event.finished
                bar.update(len(event.finished))
                if callable(progress):
                    progress(len(event.finished))
        return [done[index] for index in range(len(prompts))]

    def forwards(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[ForwardEvent]:
        """Decode prompts and yield what came of each forward, for those who watch. See :meth:`generate`."""
        events = self._decode(self._rows(prompts, max_new_tokens), watched=True)
        while True:
            # Grad mode and eval mode are the caller's between two forwards.
            with torch.no_grad(), _evaluating(self.denoiser):
                event = next(events, None)
            if event is None:
                return
            yield event

    def _rows(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Request]:
        denoiser = self.denoiser
        vocab_size = denoiser.vocab_size
        return make_requests(prompts, max_new_tokens, denoiser.block_length, denoiser.max_length, vocab_size)

    def _decode(self, prompts: list[Request], watched: bool) -> Iterator[ForwardEvent]:
        """Decode and yield what came of each forward, with the logits that were read if nobody is watching."""
        queue = deque(prompts)
        rows = [queue.popleft() for _ in range(min(self.batch_size, len(queue)))]
        longest = max(row.length for row in prompts)
        versions = 1 + self.decoder.extra_blocks
        block_attention_mask = (
            self.decoder.block_attention_mask(self.denoiser.block_length).to(self.denoiser.device)
            if versions > 1
            else None
        )
        forward = BlockForward(self.denoiser, len(rows), longest, self.use_cache, block_attention_mask, self.compile)
        rows = [rows[place] for place in forward.arranged(rows, range(len(rows)))]
        state = self._open(rows)
        while rows:
            hidden = forward(rows, input_embeddings(self.denoiser.embed, state))
            # Picking positions would wait for a GPU, which has more speed to spare than a CPU.
            reads = None if watched or hidden.device.type != "cpu" else self.decoder._needed_positions(state)
            logits = self.denoiser.logits(hidden if reads is None else hidden[reads])
            if reads is not None:
                state = self.decoder._step_sparse(state, logits, reads, self.denoiser.special)
                canvas = logits
            else:
                if versions > 1:
                    logits = logits.view(len(rows), versions, -1, logits.shape[-1])
                state = self.decoder.step(state, logits, self.denoiser.special)
                canvas = logits if versions == 1 else logits[:, 0]
            closed = self._closed(rows, state, canvas if reads is None else None, hidden)
            event = ForwardEvent([row.index for row in rows], [row.start for row in rows], state, canvas, closed)

            opened: list[int] = []
            for place, block in closed.items():
                row = rows[place]
                last = row.num_forwards == self.max_forwards
                result = row.commit(block, self.denoiser.special.eos_id, last, self.stop)
                if result is not None:
                    event.finished[row.index] = result
                    if not queue:
                        continue
                    rows[place] = queue.popleft()
                opened.append(place)
            if opened:
                fresh = self._open([rows[place] for place in opened])
                state = state.assign(torch.tensor(opened, device=state.ids.device), fresh)
            order = forward.arranged(rows, sorted(set(range(len(rows))) - (closed.keys() - set(opened))))
            if order != list(range(len(rows))):
                rows = [rows[place] for place in order]
                state = state.select(torch.tensor(order, dtype=torch.long, device=state.ids.device))
                forward.arrange(order)
            yield event

    def _closed(
        self, rows: list[Request], state: BlockState, logits: Tensor | None, hidden: Tensor
    ) -> dict[int, list[int]]:
        """Count a forward for each row; the tokens of the blocks that are done, by place. Waits for the device."""
        cap = self.decoder.max_steps(self.denoiser.block_length)
        due: list[int] = []
        for place, row in enumerate(rows):
            row.steps += 1
            row.num_forwards += 1
            row.num_extra_blocks += self.decoder.extra_blocks
            if row.steps >= cap or row.num_forwards == self.max_forwards:
                due.append(place)
        ids = state.ids
        if due:
            places = torch.tensor(due, device=ids.device)
            # Where only some positions were read, a decoder may have masked others.
            top = (self.denoiser.logits(hidden[places]) if logits is None else logits[places]).argmax(-1)
            filled = torch.where(state.masked[places], top, ids[places])
            ids = ids.index_copy(0, places, filled)
        closed = {}
        for place, (converged, *block) in enumerate(torch.cat([state.converged.unsqueeze(1), ids], 1).tolist()):
            if converged or place in due:
                closed[place] = block
                rows[place].hit_step_limit += not converged
        return closed

    def _open(self, rows: list[Request]) -> BlockState:
        """Fresh states of the rows' current blocks."""
        special, length = self.denoiser.special, self.denoiser.block_length
        device = self.denoiser.device
        ids = torch.tensor([row.head + [special.mask_id] * (length - len(row.head)) for row in rows], device=device)
        head = torch.tensor([len(row.head) for row in rows], device=device)
        editable = torch.arange(length, device=device) >= head.unsqueeze(1)
        sampling = self.sampler.of([row.index for row in rows], [row.start for row in rows], length, device)
        return replace(self.decoder.start(ids, editable, special), sampling=sampling)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside, every submodule's own mode restored after."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
