"""The rows of a streamed corpus in the order of an epoch, from any block of them on."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.chat_turns import ChatTurns
from dmaxlit.data.corpus_reader import Row, rows_of
from dmaxlit.data.lost_turns import rows_with_warnings
from dmaxlit.data.shards import Shard, State
from dmaxlit.errors import UserError
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.records import BadRows


@dataclass(frozen=True)
class Block:
    """Consecutive rows of the shards, shuffled.

    Args:
        rows: The rows.
        state: Where the block begins, and a hash of its rows, as plain values, from which :meth:`RowStream.blocks` goes
            on.
    """

    rows: list[Row]
    state: State


@dataclass(frozen=True)
class RowStream:
    """The usable rows of a corpus, shuffled without being in memory together.

    The shards of epoch e come in an order of their own, seeded by (seed, e), one after the other, and each ``buffer``
    rows of them are shuffled, seeded by (seed, e, number of the block). So the order is known from these numbers, and
    a run that goes on within a block needs to read no more than that block again.

    Args:
        shards: The shards.
        columns: Our name of each column that has another in the corpus, with that.
        tokenizer: The tokenizer that will encode the rows, for warnings of what it loses.
        buffer: Rows that are shuffled together, at least 1.
        seed: Seed of the order; None for that of the corpus, in every epoch.
        chat: As in :func:`~dmaxlit.data.corpus_reader.rows_of`; the last turn alone may be learnt.
    """

    shards: Sequence[Shard]
    columns: Mapping[str, str]
    tokenizer: PreTrainedTokenizerBase
    buffer: int
    seed: int | None
    chat: ChatTurns | None = None

    def blocks(self, epoch: int, bad: BadRows, begin: Mapping[str, Any] | None = None) -> Iterator[Block]:
        """Yield the blocks of an epoch.

        Args:
            epoch: The epoch, from 0.
            bad: Receives the rows that cannot be used.
            begin: State of the first block to yield. Default: that of the epoch's first one.

        Raises:
            UserError: If a shard cannot be read, its rows are not those of ``begin``, or for a bad row under the policy
                ``error``.
        """
        begin = begin or {"number": 0, "shard": 0, "at": {}}
        position = {name: begin[name] for name in ("shard", "at")}
        records = self._records(self._shards_of_epoch(epoch), bad, position)
        rows = rows_with_warnings(rows_of(records, bad, self.columns, self.chat), self.tokenizer)
        number, before = begin["number"], dict(position)
        while in_order := list(islice(rows, self.buffer)):
            state = {"number": number, **before, "rows": _hash(in_order)}
            if number == begin["number"] and state["rows"] != begin.get("rows", state["rows"]):
                first, last = in_order[0].location, in_order[-1].location
                raise UserError(f"corpus: expected the rows that the run has read, but {first} to {last} have changed")
            number, before = number + 1, dict(position)
            yield Block(self._shuffled(in_order, epoch, state["number"]), state)
        if begin.get("rows") and number == begin["number"]:
            raise UserError("corpus: expected the rows that the run has read, but they are there no more")

    def _records(self, shards: Sequence[Shard], bad: BadRows, position: State) -> Iterator[tuple[str, Any]]:
        """Yield the records behind a position, which moves with them."""
        while position["shard"] < len(shards):
            for location, record, state in shards[position["shard"]].records(bad, position["at"]):
                position["at"] = state
                yield location, record
            position.update(shard=position["shard"] + 1, at={})

    def _shards_of_epoch(self, epoch: int) -> list[Shard]:
        if self.seed is None:
            return list(self.shards)
        return [self.shards[index] for index in _permutation(len(self.shards), "shards", self.seed, epoch)]

    def _shuffled(self, rows: list[Row], epoch: int, number: int) -> list[Row]:
        if self.seed is None:
            return rows
        return [rows[index] for index in _permutation(len(rows), "block", self.seed, epoch, number)]


def _permutation(size: int, *keys: object) -> list[int]:
    order: list[int] = torch.randperm(size, generator=torch.Generator().manual_seed(stable_seed(*keys))).tolist()
    return order


def _hash(rows: Sequence[Row]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(repr((row.prompt, getattr(row.prompt, "tools", None), row.response)).encode())
    return digest.hexdigest()
