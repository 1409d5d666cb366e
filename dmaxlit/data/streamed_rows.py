"""The rows of corpora that are read while they are learnt, and their loader."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import lightning as L
from torch import Tensor

from dmaxlit.data.chat_turns import ChatTurns
from dmaxlit.data.corpus_cache import ENCODING_VERSION, tokenizer_hash
from dmaxlit.data.dataset import Collate
from dmaxlit.data.row_encoding import RowEncoder
from dmaxlit.data.row_stream import RowStream
from dmaxlit.data.shards import shards_of
from dmaxlit.data.stream_loader import StreamLoader
from dmaxlit.data.streamed_batches import StreamedBatches
from dmaxlit.errors import UserError, check_at_least

DEFAULT_BUFFER = 10_000  # rows

_WITHOUT_USE = {
    "group_by_length": "which needs the lengths of all rows",
    "weights": "which need the number of rows of each corpus",
    "cache_dir": "as nothing is kept",
    "max_tokens": "which needs the lengths of all rows",
    "turns": "where a record is one row, that of its last turn",
    "num_proc": "as rows are encoded while the model trains",
}


def check_streaming(streaming: bool, shuffle_buffer: int | None, has_corpus: bool, **options: Any) -> int | None:
    """Return how many rows of a stream are shuffled together; None without streaming.

    Args:
        streaming: Whether the corpus is streamed.
        shuffle_buffer: That number, or None for the default.
        has_corpus: Whether there is a corpus.
        options: Further options of the data module, some of which a stream has no use for.

    Raises:
        UserError: For options that do not go together.
    """
    if not streaming:
        if shuffle_buffer is not None:
            raise UserError(f"shuffle_buffer: expected none without streaming, got {shuffle_buffer}")
        return None
    if not has_corpus:
        raise UserError("streaming: expected a corpus, got none")
    check_at_least(1, shuffle_buffer=shuffle_buffer)
    for name, reason in _WITHOUT_USE.items():
        if value := options.get(name):
            raise UserError(f"{name}: expected none with streaming, {reason}, got {value}")
    return DEFAULT_BUFFER if shuffle_buffer is None else shuffle_buffer


def check_trainer(trainer: L.Trainer | None) -> None:
    """Refuse settings that are shares of an epoch, whose length a stream does not know.

    Args:
        trainer: The trainer; None for none.

    Raises:
        UserError: For the first such setting.
    """
    for name, whole in (("overfit_batches", 0.0), ("val_check_interval", 1.0), ("limit_train_batches", 1.0)):
        value = getattr(trainer, name, whole)
        if isinstance(value, float) and value != whole:
            raise UserError(f"trainer.{name}: expected a number of batches with streaming, got the share {value}")


def batches_ahead(trainer: L.Trainer | None) -> int:
    """Return how many batches the trainer takes before it uses them.

    Lightning takes one ahead to notice the end of an epoch, unless ``limit_train_batches``, which ``overfit_batches``
    sets too, is a number of batches.

    Args:
        trainer: The trainer; None for none.
    """
    return int(trainer is not None and not isinstance(trainer.limit_train_batches, int))


class StreamedRows:
    """Rows of one or more corpora, of which a few thousand at a time are in memory.

    Args:
        sources: Corpora; see :func:`~dmaxlit.data.corpus_reader.read_corpus`.
        hub_split: Split of hub data sets.
        columns: Our name of each column that has another in the corpora, with that.
        encoder: Encodes the rows.
        buffer: Rows that are shuffled together.
        chat: What becomes of the turns of tools; the last turn of a conversation is learnt.

    Raises:
        UserError: If there is no such file or data set.
    """

    def __init__(
        self,
        sources: Sequence[str],
        hub_split: str,
        columns: Mapping[str, str],
        encoder: RowEncoder,
        buffer: int,
        chat: ChatTurns | None = None,
    ) -> None:
        self._shards = shards_of(sources, hub_split)
        self._columns, self._encoder, self._buffer = dict(columns), encoder, buffer
        self._chat = chat or ChatTurns()
        self._loader: StreamLoader | None = None

    def loader(
        self,
        collate: Collate,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        seed: int | None = None,
        num_workers: int = 0,
        ahead: int = 0,
    ) -> StreamLoader:
        """Return the batches of one rank.

        Args:
            collate: Makes a batch of sequences.
            batch_size: Sequences in one rank's batch.
            world_size: Number of ranks.
            rank: This rank.
            seed: Seed of the order; None for that of the corpora.
            num_workers: Number of processes that read and encode.
            ahead: See :class:`StreamLoader`.
        """
        stream = RowStream(self._shards, self._columns, self._encoder.tokenizer, self._buffer, seed, self._chat)
        batches = StreamedBatches(stream, self._encoder, collate, batch_size, world_size, rank)
        self._loader = StreamLoader(batches, num_workers, ahead)
        return self._loader

    def first(self, collate: Collate, number: int) -> dict[str, Tensor]:
        """Return the first sequences as a batch, in the order of the corpora; fewer if there are no more.

        Args:
            collate: Makes a batch of sequences.
            number: Number of sequences.

        Raises:
            UserError: If a row cannot be used.
        """
        stream = RowStream(self._shards, self._columns, self._encoder.tokenizer, number, None, self._chat)
        self._loader = StreamLoader(StreamedBatches(stream, self._encoder, collate, number, 1, 0))
        return next(iter(self._loader))

    def fingerprint(self) -> str:
        """Return the number of shards and a hash of what can be known of the rows before they are read.

        It changes with the names and sizes of files, the commit of a hub data set, the tokenizer and all settings that
        the rows and their order depend on, but for the seed.
        """
        return self._fingerprint

    def places(self, indices: Sequence[int]) -> list[str]:
        """Return the file and row of sequences in the last batches; a question mark for others.

        Args:
            indices: Numbers of sequences, as in a batch's ``index``.
        """
        return ["?"] * len(indices) if self._loader is None else self._loader.locations(indices)

    @cached_property
    def _fingerprint(self) -> str:
        encoder = self._encoder
        key = [
            *(ENCODING_VERSION, tokenizer_hash(encoder.tokenizer), encoder.block_length, encoder.limit),
            *(encoder.eos_fill, encoder.on_bad_row, self._columns, self._buffer, self._chat.tool_turns),
            [shard.identity for shard in self._shards],
        ]
        number = len(self._shards)
        what = f"stream of {number} shard{'s' * (number > 1)}"
        return f"{what}, {hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"
