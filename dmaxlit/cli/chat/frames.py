"""An answer after every forward, token by token, as a chat shows it."""

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise, takewhile

from dmaxlit.data.encoding import Prompt
from dmaxlit.engine import BlockDecoder, ForwardEvent, Generation, TokenState, Trace
from dmaxlit.engine.response_text import ResponseText
from dmaxlit.engine.stream import MASK, ResponseWriter

_CONTEXT = 16  # tokens before a run that its text may depend on: a space, bytes of a character


@dataclass(frozen=True)
class Cell:
    """A token of the open blocks, or the text between two.

    Args:
        text: What it reads; one light shade for a mask.
        state: Its state; committed for what belongs to a finished block.
        changed: Whether it stands where another token stood after the forward before.
    """

    text: str
    state: TokenState
    changed: bool = False


@dataclass(frozen=True)
class Frame:
    """An answer after a forward.

    Args:
        committed: Text of the finished blocks; it only grows.
        cells: What follows it, which may change.
        num_forwards: Forwards so far.
        num_committed: Tokens of the finished blocks.
        num_tokens: These, and those of the open blocks that are no masks.
        generation: The finished answer, with the last frame; else None.
    """

    committed: str
    cells: Sequence[Cell]
    num_forwards: int
    num_committed: int
    num_tokens: int
    generation: Generation | None = None


def frames(
    engine: BlockDecoder, prompt_ids: Sequence[int], max_new_tokens: int, prompt: Prompt, trace: Trace
) -> Generator[Frame, None, None]:
    """Decode a prompt and yield a frame after every forward.

    Args:
        engine: The engine.
        prompt_ids: The prompt's token ids.
        max_new_tokens: Most tokens of the answer, EOS included.
        prompt: The prompt's text or chat messages.
        trace: Records every forward.
    """
    writer = ResponseWriter(0, prompt, engine.denoiser.tokenizer, engine.eos_ids, engine.stop)
    text = ResponseText(engine.denoiser.tokenizer)
    tokens: list[int] = []  # of the finished blocks
    before: dict[int, int] = {}  # token of each position after the forward before
    for event in engine.forwards([prompt_ids], max_new_tokens):
        trace.record(event)
        draft = writer.draft(event, with_provisional=False)
        if draft.generation is not None:
            count = draft.generation.num_tokens
            yield Frame(draft.committed, (), draft.num_forwards, count, count, draft.generation)
            return
        tokens += event.closed_tokens(0)
        positions = _open_positions(event, engine.eos_ids)
        cells = [Cell(draft.provisional, TokenState.COMMITTED)] if draft.provisional else []
        cells += _cells(positions, tokens, before, text)
        before = {position: token for position, token, state in positions if state != TokenState.MASKED}
        yield Frame(draft.committed, cells, draft.num_forwards, len(tokens), len(tokens) + len(before))


def _open_positions(event: ForwardEvent, eos_ids: Collection[int]) -> list[tuple[int, int, TokenState]]:
    """Return position, token and state of the open blocks up to EOS, in order."""
    ids, states = event.positions()
    found: list[tuple[int, int, TokenState]] = []
    for row in (row for row in event.rows_of(0) if row not in event.closed):
        columns = zip(ids[row].tolist(), states[row].tolist(), strict=True)
        for position, (token, value) in enumerate(columns, start=event.block_starts[row]):
            state = TokenState(value)
            if state in (TokenState.TOKEN, TokenState.SOFT) and token in eos_ids:
                return found
            if state != TokenState.PROMPT:
                found.append((position, token, state))
    return found


def _cells(
    positions: Sequence[tuple[int, int, TokenState]], tokens: Sequence[int], before: dict[int, int], text: ResponseText
) -> Iterator[Cell]:
    """Yield a cell for each position; a run of tokens and a run of masks have a space between them."""
    context, last = list(tokens[-_CONTEXT:]), ""
    for masked, run in groupby(positions, key=lambda entry: entry[2] == TokenState.MASKED):
        entries = list(run)
        ids = [token for _, token, _ in entries]
        texts = [MASK] * len(ids) if masked else _pieces(text, context, ids)
        begins = next(filter(None, texts), "")
        follows = last or (masked and tokens)
        if follows and begins and not last[-1:].isspace() and not begins[0].isspace():
            yield Cell(" ", TokenState.COMMITTED)
        for (position, token, state), shown in zip(entries, texts, strict=True):
            changed = not masked and before.get(position, token) != token
            yield Cell(shown, state, changed)
        context, last = [], "".join(texts)


def _pieces(text: ResponseText, context: list[int], ids: list[int]) -> list[str]:
    """Return the text of each token of a run, which together are the text of the run behind its context."""
    whole = text(context + ids)
    # A character may need several tokens: it belongs to the last of them.
    ends = [_common_length(text(context + ids[:count]).rstrip("\ufffd"), whole) for count in range(len(ids))]
    cuts = accumulate([*ends, len(whole)], max)
    return [whole[begin:end] for begin, end in pairwise(cuts)]


def _common_length(a: str, b: str) -> int:
    """Return how many characters two texts begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
