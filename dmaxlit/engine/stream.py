"""Streaming: the response after every forward, as committed text and text that may still change."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.encoding import Prompt
from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.generation import Generation
from dmaxlit.engine.growing_text import GrowingText
from dmaxlit.engine.response_text import ResponseText
from dmaxlit.engine.stop_strings import StopSearch, StopStrings

__all__ = ["Draft", "drafts"]

#: A light shade, one for each undecided token.
MASK = "\u2591"


@dataclass(frozen=True)
class Draft:
    """A response after a forward.

    Args:
        committed: Text of the finished blocks; it only grows. Text at its end that later tokens may change, such as
            part of a character or the beginning of a stop text, is kept in ``provisional``.
        provisional: Text of the open blocks; undecided tokens are shown as light shades. Any of it may change.
        num_forwards: Forwards so far.
        generation: The finished response, with the last draft; else None.
    """

    committed: str
    provisional: str
    num_forwards: int
    generation: Generation | None = None


class ResponseWriter:
    """Writes the response to one prompt, draft by draft, from the engine's events.

    Args:
        index: Index of the prompt.
        prompt: Its text or chat messages.
        tokenizer: Turns tokens into text.
        eos_ids: The tokens that end a response.
        stop: Texts that end a response.
    """

    def __init__(
        self,
        index: int,
        prompt: Prompt,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: Collection[int],
        stop: StopStrings | None = None,
    ) -> None:
        self._index, self._prompt, self._tokenizer = index, prompt, tokenizer
        self._eos_ids, self._stop = eos_ids, stop
        self._text = ResponseText(tokenizer)
        search = None if stop is None else stop.begin()
        self._growing = GrowingText(self._text) if search is None else search.growing
        self._source: GrowingText | StopSearch = self._growing if search is None else search
        self._committed_ids: list[int] = []
        self._committed = self._unsettled = ""
        self._num_forwards = 0

    def draft(self, event: ForwardEvent, with_provisional: bool = True) -> Draft:
        """Return the draft after a forward that the prompt took part in.

        Args:
            event: The forward; every one of the prompt's, in order.
            with_provisional: Whether to read the text of the open blocks, which waits for the device.
        """
        self._num_forwards += 1
        sequence = event.finished.get(self._index)
        if sequence is not None:
            generation = Generation.from_sequence(sequence, self._prompt, self._tokenizer, self._stop)
            return Draft(generation.text, "", generation.num_forwards, generation)
        closed = event.closed_tokens(self._index)
        self._committed_ids += closed
        if closed:
            self._committed = self._source.settled(self._committed_ids)
            self._unsettled = self._growing(self._committed_ids)[len(self._committed) :]
            self._source.settle(self._committed_ids)
        provisional = self._unsettled
        if with_provisional:
            open_rows = [row for row in event.rows_of(self._index) if row not in event.closed]
            open_blocks = _open_text(event, open_rows, self._text, self._eos_ids)
            provisional = " ".join(filter(None, [self._unsettled, open_blocks]))
        return Draft(self._committed, provisional, self._num_forwards)


def drafts(engine: BlockDecoder, prompt_ids: Sequence[int], max_new_tokens: int, prompt: Prompt) -> Iterator[Draft]:
    """Decode a prompt and yield a draft after every forward.

    Args:
        engine: The engine.
        prompt_ids: The prompt's token ids.
        max_new_tokens: Most tokens of the response, EOS included.
        prompt: The prompt's text or chat messages.
    """
    writer = ResponseWriter(0, prompt, engine.denoiser.tokenizer, engine.eos_ids, engine.stop)
    for event in engine.forwards([prompt_ids], max_new_tokens, with_logits=False):
        yield writer.draft(event)


def _open_text(event: ForwardEvent, rows: Sequence[int], text: ResponseText, eos_ids: Collection[int]) -> str:
    """Return the text of the open blocks up to EOS, with shades for their masks."""
    state = event.state
    columns = (
        column
        for row in rows
        for column in zip(
            state.ids[row].tolist(), state.masked[row].tolist(), state.editable[row].tolist(), strict=True
        )
    )
    block = [(masked, token) for token, masked, editable in columns if editable]
    end = next((index for index, cell in enumerate(block) if not cell[0] and cell[1] in eos_ids), len(block))
    runs = [(masked, [token for _, token in run]) for masked, run in groupby(block[:end], key=lambda cell: cell[0])]
    return " ".join(MASK * len(tokens) if masked else text(tokens) for masked, tokens in runs)
