"""Decodes lists of prompts block by block, with one decoder."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.eval_mode import evaluating
from dmaxlit.backbone.sharding import is_sharded
from dmaxlit.bars import make_bar
from dmaxlit.decoding.admission import AdmissionPolicy, make_admission
from dmaxlit.decoding.base import Decoder
from dmaxlit.engine.block_forward import BlockForward
from dmaxlit.engine.checked_admission import checked
from dmaxlit.engine.decoder_checks import DecoderChecks
from dmaxlit.engine.end_of_response import eos_ids
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.lane import Lane
from dmaxlit.engine.request import DecodedSequence, Request, check_prompt
from dmaxlit.engine.sampler import RowSampler, Sampler
from dmaxlit.engine.shared_batch import SharedBatch
from dmaxlit.engine.step import step_of
from dmaxlit.engine.stop_strings import StopStrings
from dmaxlit.engine.trace import Trace
from dmaxlit.engine.window import check_window
from dmaxlit.errors import PromptError, UserError, check_at_least, describe_value

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
            front block closed as above, with it those behind it that have converged, and its response ends there.
        sampler: Temperature, nucleus and seed; default: the most probable tokens.
        stop: Texts that end a response as EOS does. Its tokens include the one that completes the text.
        compile: Compile the model's forwards (``torch.compile``; CUDA graphs on a GPU) in a few fixed shapes. The first
            forwards of each shape take long, so this pays for many prompts only.
        check_decoder: Check what a decoder that is not dmaxlit's own returns in the first forwards of a call, and such
            an admission policy in all.
        window: Most blocks of a prompt that are open at once, at least 1.
        admission: Decides when the block behind the last open one is opened too; a policy or its name.

    Raises:
        UserError: For a limit below 1, a window of several blocks if the forwards are compiled or the decoder reads
            several versions of a block, or a decoder that needs an auxiliary model which the denoiser lacks.
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
        step_of(decoder, denoiser)  # refuses what the decoder needs and the model lacks
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
        self.eos_ids = eos_ids(denoiser.model, denoiser.tokenizer)
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
            progress: Show a progress bar, or call this after each forward with the number of responses it finished.
            trace: Records every forward.
            on_finished: Called with the index of a prompt and its sequence as soon as that is finished.

        Returns:
            One sequence per prompt, in order.

        Raises:
            UserError: If there are no prompts, one leaves no room for a response, or the model computes NaN or infinity
                of one; or if ``trace`` is no trace.
        """
        if not isinstance(trace, Trace | None):
            raise UserError(f"trace: expected a Trace that records the forwards, got {describe_value(trace)}")
        if trace is not None:
            trace.begin()
        sequences: dict[int, DecodedSequence] = {}
        with (
            _without_gradients(self.denoiser, self.compile),
            evaluating(self.denoiser.modules()),
            make_bar(total=len(prompts), unit="prompt", disable=progress is not True) as bar,
        ):
            for event in self._decode(self._requests(prompts, max_new_tokens), watched=trace is not None):
                if trace is not None:
                    trace.record(event)
                if callable(progress):
                    progress(len(event.finished))
                if not event.finished:
                    continue
                sequences |= event.finished
                bar.update(len(event.finished))
                if on_finished is not None:
                    for index, sequence in event.finished.items():
                        on_finished(index, sequence)
        return [sequences[index] for index in range(len(prompts))]

    def forwards(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, with_logits: bool = True
    ) -> Iterator[ForwardEvent]:
        """Decode prompts and yield an event after each forward.

        Args:
            prompts: As of :meth:`decode`.
            max_new_tokens: As of :meth:`decode`.
            with_logits: Whether events have the logits of all positions. Without, a CPU computes only those that the
                decoder reads.
        """
        events = self._decode(self._requests(prompts, max_new_tokens), watched=with_logits)
        modules = list(self.denoiser.modules())
        while True:
            # Between two forwards, grad mode and eval mode are the caller's.
            with torch.no_grad(), evaluating(modules):
                event = next(events, None)
            if event is None:
                return
            yield event

    def check_prompt(self, index: int, prompt: Sequence[int], max_length: int | None = None) -> list[int]:
        """Return the token ids of a prompt as a list.

        Args:
            index: Index of the prompt.
            prompt: Token ids: any sequence, tensor or array of integers.
            max_length: Most positions of prompt and response, if they are fewer than the model's context.

        Raises:
            UserError: For a prompt that is no list of token ids, leaves no room for a token, or has an id outside the
                vocabulary.
        """
        return check_prompt(index, prompt, self._context(max_length), self.denoiser.vocab_size)

    def make_request(
        self, index: int, prompt_ids: list[int], max_new_tokens: int, max_length: int | None = None
    ) -> Request:
        """Make a request of a prompt; its budget of tokens is cut to what fits the context.

        Args:
            index: Index of the request.
            prompt_ids: Token ids, as :meth:`check_prompt` returns them for the same ``max_length``.
            max_new_tokens: Most tokens of the response, EOS included, at least 1.
            max_length: Most positions of prompt and response, if they are fewer than the model's context.

        Raises:
            UserError: For a budget below 1.
        """
        check_at_least(1, max_new_tokens=max_new_tokens)
        budget = min(max_new_tokens, self._context(max_length) - len(prompt_ids))
        stop = None if self.stop is None else self.stop.begin()
        return Request(index, prompt_ids, budget, self.denoiser.block_length, self.max_forwards, stop)

    def _context(self, max_length: int | None) -> int:
        return self.denoiser.max_length if max_length is None else min(self.denoiser.max_length, max_length)

    def _requests(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Request]:
        if len(prompts) == 0:
            raise UserError("prompts: expected at least one, got an empty list")
        prompt_ids = [self.check_prompt(index, prompt) for index, prompt in enumerate(prompts)]
        return [self.make_request(index, ids, max_new_tokens) for index, ids in enumerate(prompt_ids)]

    def _decode(self, requests: Sequence[Request], watched: bool) -> Iterator[ForwardEvent]:
        """Yield one event per forward; if watched, with the logits of all positions."""
        queue = deque(requests)
        num_rows = min(self.batch_size, len(queue))
        lane = self.make_lane(self.sampler, watched)  # first, for it checks a decoder of the user's own
        batch = self.make_batch(num_rows, max(request.length for request in requests))
        for _ in range(num_rows):
            batch.add(queue.popleft(), lane)
        while batch.size:
            (event,) = batch.step().values()
            for index, reason in event.failed.items():
                raise PromptError(index, reason)
            yield event
            for _ in event.finished:
                if queue:
                    batch.add(queue.popleft(), lane)
        lane.warn_of_limit()

    def make_batch(self, num_rows: int, max_length: int | None = None, limit: int | None = None) -> SharedBatch:
        """Make an empty batch for requests that are decoded with these settings.

        Args:
            num_rows: Most requests of the batch.
            max_length: Positions of the longest request to come, in whole blocks; None if that is not known: the cache
                then grows with the requests.
            limit: Most positions of any request, if they are fewer than the model's context; the cache grows no
                further.
        """
        denoiser, mask = self.denoiser, None
        most = denoiser.max_length if max_length is None else max_length
        if self.decoder.extra_blocks:
            mask = self.decoder.block_attention_mask(denoiser.block_length).to(denoiser.device)
        window = min(self.window, -(-most // denoiser.block_length))  # more are never open
        length = max_length or denoiser.block_length
        if limit is not None:
            limit = min(-(-limit // denoiser.block_length) * denoiser.block_length, denoiser.max_length)
        forward = BlockForward(denoiser, num_rows, length, self.use_cache, mask, self.compile, window, limit)
        return SharedBatch(forward)

    def make_lane(self, sampler: RowSampler, watched: bool = False) -> Lane:
        """Make the lane of requests that are decoded with these settings.

        Args:
            sampler: Their random numbers.
            watched: Whether events shall have the logits of all positions.
        """
        denoiser = self.denoiser
        admission = checked(self.admission, self.check_decoder) if self.window > 1 else None
        checks = DecoderChecks(
            self.decoder, denoiser.special, denoiser.vocab_size, denoiser.block_length, self.check_decoder
        )
        return Lane(denoiser, self.decoder, sampler, checks, self.eos_ids, self.window, admission, watched)


def _without_gradients(denoiser: Denoiser, compiled: bool) -> AbstractContextManager[object]:
    """Return inference mode, in which each operation costs less; no_grad for sharded weights and CUDA graphs.

    FSDP advises against inference mode, and CUDA graphs have not been tried in it.
    """
    if is_sharded(denoiser) or (compiled and denoiser.device.type != "cpu"):
        return torch.no_grad()
    return torch.inference_mode()
