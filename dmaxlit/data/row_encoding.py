"""Rows to sequences of token ids, chunk by chunk."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.dataset import Part
from dmaxlit.data.encoding import EosFill, check_eos_fill, encode_prompts, encode_texts, encode_turns
from dmaxlit.data.ordered_map import ordered_map
from dmaxlit.data.sequences import SequenceMaker
from dmaxlit.errors import UserError, reason_of
from dmaxlit.tasks.records import BadRows, OnBadRow

_CHUNK = 4096  # rows the tokenizer encodes at once
_CHUNK_CHARACTERS = 2**22  # of prompts and responses, after which a chunk ends, as these may be long


@dataclass(frozen=True)
class EncodedChunk:
    """What became of a chunk of rows.

    Args:
        part: Its sequences; their rows are numbered from 0.
        num_rows: Number of rows.
        skipped: Rows without a sequence, by reason.
    """

    part: Part
    num_rows: int
    skipped: "Counter[str]"


@dataclass(frozen=True)
class RowEncoder:
    """Encodes rows, pairs as :func:`~dmaxlit.data.encoding.encode_pair` does, and plain texts in windows.

    Args:
        tokenizer: The model's tokenizer.
        block_length: Length of the blocks of the grid.
        max_length: Most tokens of a sequence, EOS fill included; it is rounded down to whole blocks.
        eos_fill: See :func:`~dmaxlit.data.encoding.encode_pair`.
        on_bad_row: What to do with rows that the chat template refuses, or pairs that are too long.

    Raises:
        UserError: For an ``eos_fill`` that is none, or a length below one block.
    """

    tokenizer: PreTrainedTokenizerBase
    block_length: int
    max_length: int
    eos_fill: EosFill
    on_bad_row: OnBadRow

    def __post_init__(self) -> None:
        check_eos_fill(self.eos_fill)
        if self.limit < self.block_length:
            raise UserError(f"max_length: expected at least one block of {self.block_length}, got {self.max_length}")

    @property
    def limit(self) -> int:
        """Most tokens of a sequence, in whole blocks."""
        return self.max_length // self.block_length * self.block_length

    def encode(self, rows: Sequence[Row]) -> EncodedChunk:
        """Return the sequences of a chunk.

        Raises:
            UserError: Under the policy ``error`` for the first row that cannot be used.
        """
        bad = BadRows(self.on_bad_row)
        maker = SequenceMaker(self.limit, self.block_length, self.eos_fill, self.tokenizer.eos_token_id, bad)
        ids: list[np.ndarray] = []
        prompt_lengths: list[int] = []
        numbers: list[int] = []
        for number, (row, encoded) in enumerate(zip(rows, _encode(self.tokenizer, rows, bad), strict=True)):
            for tokens, prompt_length in () if encoded is None else maker.sequences(row, *encoded):
                ids.append(np.array(tokens, dtype=np.int32))
                prompt_lengths.append(prompt_length)
                numbers.append(number)
        flat = np.concatenate(ids) if ids else np.empty(0, dtype=np.int32)
        ends = np.cumsum([len(tokens) for tokens in ids], dtype=np.int64)
        part = Part(flat, ends, np.array(prompt_lengths, dtype=np.int64), np.array(numbers, dtype=np.int64))
        return EncodedChunk(part, len(rows), bad.counts)


@dataclass
class EncodingCounts:
    """How many rows were encoded, and what became of the others.

    Args:
        bad: Receives the rows without a sequence.
        rows: Rows with one.
        sequences: Sequences: pairs, and windows of plain texts.
    """

    bad: BadRows
    rows: int = 0
    sequences: int = 0

    def notes(self, limit: int) -> list[str]:
        """Return lines for the user: the rows that were skipped, and the number of windows.

        Args:
            limit: Most tokens of a window.
        """
        notes = [summary] if (summary := self.bad.summary(self.rows)) else []
        if self.sequences > self.rows:
            notes.append(f"corpus: {self.rows} rows in {self.sequences} windows of at most {limit} tokens")
        return notes


def encoded_parts(
    rows: Iterable[Row], encoder: RowEncoder, counts: EncodingCounts, num_proc: int = 1
) -> Iterator[Part]:
    """Yield the sequences of all rows in order, in parts of a few thousand.

    Args:
        rows: The pairs and plain texts.
        encoder: Encodes them.
        counts: Receives what is counted.
        num_proc: Number of processes that encode.

    Raises:
        UserError: Under the policy ``error`` for the first row that cannot be used.
    """
    begin = 0
    for chunk in ordered_map(encoder.encode, _chunks(rows), num_proc):
        counts.bad.counts.update(chunk.skipped)
        if len(part := chunk.part):
            counts.rows += len(np.unique(part.numbers))
            counts.sequences += len(part)
            yield replace(part, numbers=part.numbers + begin)
        begin += chunk.num_rows


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += _num_characters(row)
        if len(chunk) == _CHUNK or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _num_characters(row: Row) -> int:
    prompt = row.prompt or ""
    texts = [prompt] if isinstance(prompt, str) else [str(message.get("content")) for message in prompt]
    return sum(map(len, texts)) + len(row.response)


def _encode(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], bad: BadRows
) -> Iterable[tuple[list[int], list[int]] | None]:
    """Return the tokens of prompt and response of each row; None for one that cannot be encoded."""
    try:
        return _encode_together(tokenizer, rows)
    except MemoryError:
        raise
    except Exception:  # a chat template is a program, and may raise anything
        return (_encode_alone(tokenizer, row, bad) for row in rows)


def _encode_together(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> Sequence[tuple[list[int], list[int]]]:
    pairs = [(row.prompt, row.response) for row in rows if row.prompt is not None]
    prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
    turns = encode_turns(tokenizer, prompts, responses)
    encoded_pairs = zip(encode_prompts(tokenizer, prompts), turns, strict=True)
    encoded_texts = iter(encode_texts(tokenizer, [row.response for row in rows if row.prompt is None]))
    return [next(encoded_texts if row.prompt is None else encoded_pairs) for row in rows]


def _encode_alone(tokenizer: PreTrainedTokenizerBase, row: Row, bad: BadRows) -> tuple[list[int], list[int]] | None:
    try:
        return _encode_together(tokenizer, [row])[0]
    except MemoryError:
        raise
    except Exception as error:
        bad.add(row.location, "cannot be encoded", reason_of(error, with_type=not isinstance(error, UserError)))
        return None
