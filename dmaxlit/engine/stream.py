"""A response in the making: what is committed and what may still change, after every forward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.generation import Generation
from dmaxlit.engine.stop_strings import StopStrings

__all__ = ["Draft", "drafts"]

_MASK = "\u2591"  # a light shade, one for each undecided token


@dataclass(frozen=True)
class Draft:
    """A response after a forward.

    Args:
        committed: Text of the finished blocks; it only grows. What may still turn out otherwise at its end, part of a
            character or the beginning of a stop text, waits in ``provisional``.
        provisional: Text of the open block; undecided tokens are shown as light shades. Any of it may change.
        num_forwards: Forwards so far.
        generation: The finished response, with the last draft; else None.
    """

    committed: str
    provisional: str
    num_forwards: int
    generation: Generation | None = None


def drafts(engine: BlockDecoder, prompt_ids: Sequence[int], max_new_tokens: int, prompt: str) -> Iterator[Draft]:
    """Decode a prompt and yield a draft after every forward.

    Args:
        engine: The engine.
        prompt_ids: The prompt's token ids.
        max_new_tokens: Budget of tokens, EOS included.
        prompt: The prompt's text.
    """
    tokenizer, eos = engine.denoiser.tokenizer, engine.denoiser.special.eos_id

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    committed: list[int] = []
    for number, event in enumerate(engine.forwards([prompt_ids], max_new_tokens), start=1):
        for row in event.finished.values():
            generation = Generation.from_row(row, prompt, tokenizer, engine.stop)
            yield Draft(generation.text, "", number, generation)
            return
        editable = event.state.editable[0].tolist()
        if event.closed:
            committed += [token for token, mine in zip(event.closed[0], editable, strict=True) if mine]
            settled, waiting = _settled(text(committed), engine.stop)
            yield Draft(settled, waiting, number)
            continue
        ids, masked = event.state.ids[0].tolist(), event.state.masked[0].tolist()
        canvas = [(mask, token) for token, mask, mine in zip(ids, masked, editable, strict=True) if mine]
        ended = next((place for place, (mask, token) in enumerate(canvas) if token == eos and not mask), len(canvas))
        runs = [(mask, [token for _, token in run]) for mask, run in groupby(canvas[:ended], key=lambda cell: cell[0])]
        settled, waiting = _settled(text(committed), engine.stop)
        shown = " ".join(_MASK * len(run) if mask else text(run) for mask, run in runs)
        yield Draft(settled, f"{waiting} {shown}" if waiting else shown, number)


def _settled(text: str, stop: StopStrings | None) -> tuple[str, str]:
    """The part of a text that nothing to come can change, and the rest."""
    end = len(text.rstrip("\ufffd"))
    if stop is not None:
        end = min(end, stop.settled(text))
    return text[:end], text[end:]
