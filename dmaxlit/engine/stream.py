"""Streaming: the response after every forward, as committed text and text that may still change."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from dmaxlit.data.encoding import Prompt
from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.generation import Generation
from dmaxlit.engine.response_text import ResponseText

__all__ = ["Draft", "drafts"]

_MASK = "\u2591"  # a light shade, one for each undecided token


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


def drafts(engine: BlockDecoder, prompt_ids: Sequence[int], max_new_tokens: int, prompt: Prompt) -> Iterator[Draft]:
    """Decode a prompt and yield a draft after every forward.

    Args:
        engine: The engine.
        prompt_ids: The prompt's token ids.
        max_new_tokens: Most tokens of the response, EOS included.
        prompt: The prompt's text or chat messages.
    """
    tokenizer = engine.denoiser.tokenizer
    text = ResponseText(tokenizer)
    settled = text.settled if engine.stop is None else engine.stop.settled
    committed_ids: list[int] = []
    for number, event in enumerate(engine.forwards([prompt_ids], max_new_tokens), start=1):
        for sequence in event.finished.values():
            generation = Generation.from_sequence(sequence, prompt, tokenizer, engine.stop)
            yield Draft(generation.text, "", number, generation)
            return
        in_order = sorted(range(len(event.block_starts)), key=lambda row: event.block_starts[row])
        for row in filter(event.closed.__contains__, in_order):
            editable = event.state.editable[row].tolist()
            committed_ids += [token for token, is_ours in zip(event.closed[row], editable, strict=True) if is_ours]
        open_rows = [row for row in in_order if row not in event.closed]
        open_blocks = _open_text(event, open_rows, text, engine.eos_ids)
        committed = settled(committed_ids)
        unsettled = text(committed_ids)[len(committed) :]
        yield Draft(committed, " ".join(filter(None, [unsettled, open_blocks])), number)


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
    return " ".join(_MASK * len(tokens) if masked else text(tokens) for masked, tokens in runs)
