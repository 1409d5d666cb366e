"""Decodes prompts into the rows of a file: each process its share, longest prompts first."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from dmaxlit.data.answer_bar import AnswerBar
from dmaxlit.data.parts import PartWriter
from dmaxlit.data.prompt_shares import prompt_shares
from dmaxlit.data.resumable_jsonl import Progress
from dmaxlit.data.row_filter import RowFilter
from dmaxlit.data.shared_corpus import SharedCorpus
from dmaxlit.errors import PromptError
from dmaxlit.ranks import LostRankError

#: Batches of each process in a chunk: enough that rows left free at its end do not count.
_BATCHES_PER_CHUNK = 64
_WAIT = 0.5  # seconds between two looks at the others, for a process whose share is done


class Response(Protocol):
    """What is counted of a response; see :class:`dmaxlit.engine.Generation`."""

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def finished(self) -> bool: ...  # noqa: D102

    @property
    def num_tokens(self) -> int: ...  # noqa: D102

    @property
    def num_forwards(self) -> int: ...  # noqa: D102


MakeRow = Callable[[int, Any], tuple[Mapping[str, Any] | None, bool]]


class Generate(Protocol):
    """Decodes prompts."""

    def __call__(
        self,
        prompts: Sequence[Any],
        indices: Sequence[int],
        take: Callable[[int, Any], object],
        tick: Callable[[int], object],
        /,
    ) -> object:
        """Decode prompts.

        Args:
            prompts: The prompts.
            indices: Index of each among all prompts of the file. Samples depend on it.
            take: To be called with the index of each among ``prompts`` and its :class:`Response`, in any order.
            tick: To be called with some number after every forward, or every second: ends this process if another one
                has ended.
        """


def generate_rows(
    file: SharedCorpus,
    prompts: Sequence[Any],
    measure: Callable[[Sequence[Any]], Sequence[int]],
    generate: Generate,
    make_row: MakeRow,
    batch_size: int,
    progress_bar: bool = True,
    title: str | None = None,
    row_filter: RowFilter | None = None,
) -> Progress:
    """Decode the prompts a file has no answers to yet, all processes together; record rows after every batch.

    Args:
        file: The file to write or to resume, entered and not complete.
        prompts: All prompts of the file.
        measure: Returns the length of prompts, by which they are ordered; refuses those that cannot be decoded before
            any is.
        generate: Decodes prompts.
        make_row: Called with the index of a prompt and its response. Returns the row to write, or None for no row, and
            whether the response is correct.
        batch_size: Prompts that are decoded together.
        progress_bar: Show a progress bar.
        title: Title of the progress bar.
        row_filter: Drops rows once all are there, in the order of their prompts. Default: all rows are kept.

    Returns:
        The counts over the whole file; seconds are the sum over processes.

    Raises:
        PromptError: For a prompt that cannot be decoded, by its index among all.
        UserError: If the file cannot be written, or another process ends; what was recorded before is kept.
    """
    ranks = file.ranks
    before = {rank: file.parts.recorded(rank) for rank in range(1, ranks.world_size) if ranks.is_main}
    remaining = file.remaining(len(prompts))
    own = remaining[ranks.rank :: ranks.world_size]

    def measure_own() -> Sequence[int]:
        with named_by_all(own):
            return measure([prompts[index] for index in own])

    measured = ranks.gather(ranks.together(measure_own))
    lengths = {
        index: length
        for rank, lengths_of_rank in enumerate(measured)
        for index, length in zip(remaining[rank :: ranks.world_size], lengths_of_rank, strict=True)
    }
    chunk_length = _BATCHES_PER_CHUNK * batch_size * ranks.world_size
    chunks = [shares[ranks.rank] for shares in prompt_shares(remaining, lengths, ranks.world_size, chunk_length)]

    def answer() -> None:
        with AnswerBar(file.parts, before, len(prompts), len(remaining), title, progress_bar and ranks.is_main) as bar:
            try:
                _answer(chunks, prompts, generate, make_row, file, bar, batch_size)
                while ranks.is_main and not bar.is_full:
                    time.sleep(_WAIT)
                    file.check_ranks()
                    bar.look()
            except LostRankError:
                raise
            except BaseException:
                file.leave()
                raise

    if remaining:
        ranks.together(answer)
    return file.merge(len(prompts), row_filter)


@contextmanager
def named_by_all(indices: Sequence[int]) -> Iterator[None]:
    """Name a prompt that is refused by its index among all, not by that among some.

    Args:
        indices: Index of each of these among all.

    Raises:
        PromptError: For such a prompt.
    """
    try:
        yield
    except PromptError as error:
        raise PromptError(indices[error.index], error.reason) from error


def _answer(
    chunks: Sequence[Sequence[int]],
    prompts: Sequence[Any],
    generate: Generate,
    make_row: MakeRow,
    file: SharedCorpus,
    bar: AnswerBar,
    batch_size: int,
) -> None:
    """Answer the share of this process, and append the answers to its part."""
    begin = time.perf_counter()
    writer = PartWriter(file.parts.part(file.ranks.rank), lambda: time.perf_counter() - begin, batch_size)

    def tick(_: int) -> None:
        file.check_ranks()
        bar.look()

    def answer_chunk(chunk: Sequence[int]) -> None:
        def take(position: int, response: Response) -> None:
            row, correct = make_row(chunk[position], response)
            writer.add(_record(chunk[position], response, correct, row))
            bar.count(response.num_tokens)

        with named_by_all(chunk):
            generate([prompts[index] for index in chunk], chunk, take, tick)

    try:
        for chunk in filter(None, chunks):
            answer_chunk(chunk)
    finally:  # also what was finished before Ctrl-C
        writer.record()


def _record(index: int, response: Response, correct: bool, row: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a part holds of an answer."""
    return {
        "index": index,
        "finished": bool(response.finished),
        "correct": bool(correct),
        "num_tokens": response.num_tokens,
        "num_forwards": response.num_forwards,
        "row": row,
        **({"refused": True} if getattr(response, "refusal", "") else {}),  # only a server refuses prompts
    }
