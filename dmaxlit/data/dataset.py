"""Encoded rows, packed into one flat tensor, and their collation into batches."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.encoding import EosFill, check_eos_fill, encode_prompts, encode_texts, encode_turns, whole_blocks
from dmaxlit.data.sequences import SequenceMaker
from dmaxlit.errors import UserError, reason_of
from dmaxlit.tasks.records import BadRows
from dmaxlit.tokens import Role

_CHUNK = 4096  # rows the tokenizer encodes at once
_CHUNK_CHARACTERS = 2**24  # after which a chunk ends, as plain texts may be long

Item = tuple[int, Tensor, int]


class PackedPairs(Dataset[Item]):
    """Encoded pairs and windows of plain texts, concatenated in a single tensor: small, and quick to fork and to share.

    Args:
        ids: ``[tokens]`` token ids of all of them.
        ends: ``[rows]`` end of each in ``ids``.
        prompt_lengths: ``[rows]`` number of prompt tokens of each.
        numbers: ``[rows]`` number of each one's row in the corpus, the same for all windows of a text; rows that cannot
            be used leave gaps. Default: no gaps.
    """

    def __init__(self, ids: Tensor, ends: Tensor, prompt_lengths: Tensor, numbers: Tensor | None = None) -> None:
        self.ids, self.ends, self.prompt_lengths = ids, ends, prompt_lengths
        self.numbers = torch.arange(len(ends)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.ends)

    def fingerprint(self) -> str:
        """Return the number of rows and a checksum of their tokens: the same for the same rows in the same order."""
        digest = hashlib.sha256()
        for tensor in (self.ids, self.ends, self.prompt_lengths):
            digest.update(tensor.contiguous().numpy().data)
        return f"{len(self)} rows, {digest.hexdigest()[:16]}"

    def __getitem__(self, index: int) -> Item:
        """Return (row number, ids, length of the prompt)."""
        begin = int(self.ends[index - 1]) if index else 0
        return index, self.ids[begin : int(self.ends[index])], int(self.prompt_lengths[index])


class Collate:
    """Fill the last block of each pair, pad pairs to a common length, and give every position its role.

    Args:
        pad_id: Token id of the padding.
        eos_id: Token id of the fill.
        block_length: Length of the blocks of the grid.
    """

    def __init__(self, pad_id: int, eos_id: int, block_length: int) -> None:
        self.pad_id, self.eos_id, self.block_length = pad_id, eos_id, block_length

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Return ``ids`` and ``roles`` ``[batch, length]``, and ``index`` ``[batch]``."""
        shape = (len(items), max(whole_blocks(len(ids), self.block_length) for _, ids, _ in items))
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        roles = torch.full(shape, int(Role.PAD), dtype=torch.long)
        for row, (_, tokens, prompt_length) in enumerate(items):
            ids[row, : len(tokens)] = tokens
            roles[row, :prompt_length] = int(Role.PROMPT)
            roles[row, prompt_length : len(tokens)] = int(Role.RESPONSE)
            fill = slice(len(tokens), whole_blocks(len(tokens), self.block_length))
            ids[row, fill] = self.eos_id
            roles[row, fill] = int(Role.FILL)
        return {"ids": ids, "roles": roles, "index": torch.tensor([index for index, _, _ in items])}


def pack(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    block_length: int,
    max_length: int,
    eos_fill: EosFill,
    bad: BadRows,
) -> PackedPairs:
    """Encode rows, pairs as :func:`~dmaxlit.data.encoding.encode_pair` does, and plain texts in windows.

    Args:
        rows: The pairs and plain texts.
        tokenizer: The model's tokenizer.
        block_length: Length of the blocks of the grid.
        max_length: Most tokens of a sequence, EOS fill included, rounded down to whole blocks.
        eos_fill: See :func:`~dmaxlit.data.encoding.encode_pair`.
        bad: Receives the rows that the chat template refuses, or pairs that are too long.

    Raises:
        UserError: If no row is left, or under the policy ``error`` for the first that cannot be used.
    """
    check_eos_fill(eos_fill)
    limit = max_length // block_length * block_length
    if limit < block_length:
        raise UserError(f"max_length: expected at least one block of {block_length}, got {max_length}")
    maker = SequenceMaker(limit, block_length, eos_fill, tokenizer.eos_token_id, bad)
    ids: list[Tensor] = []
    prompt_lengths: list[int] = []
    numbers: list[int] = []
    begin = 0
    for chunk in _chunks(rows):
        for number, (row, encoded) in enumerate(zip(chunk, _encode(tokenizer, chunk, bad), strict=True), start=begin):
            for tokens, prompt_length in () if encoded is None else maker.sequences(row, *encoded):
                ids.append(torch.tensor(tokens, dtype=torch.int32))
                prompt_lengths.append(prompt_length)
                numbers.append(number)
        begin += len(chunk)
    num_rows = len(set(numbers))
    if summary := bad.summary(num_rows):
        rank_zero_info(summary)
    if not ids:
        raise UserError("corpus: expected at least one usable row, found none")
    if len(ids) > num_rows:
        rank_zero_info(f"corpus: {num_rows} rows in {len(ids)} windows of at most {limit} tokens")
    ends = torch.tensor([len(tokens) for tokens in ids]).cumsum(0)
    return PackedPairs(torch.cat(ids), ends, torch.tensor(prompt_lengths), torch.tensor(numbers))


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row.response)
        if len(chunk) == _CHUNK or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


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
