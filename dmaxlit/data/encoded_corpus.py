"""The encoded rows of a corpus: a small one in memory, a larger one once and for all in a cache on the disk."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from tqdm import tqdm

from dmaxlit.data.corpora import Corpora
from dmaxlit.data.corpus_cache import CorpusCache, Messages, encoding_key
from dmaxlit.data.dataset import PackedPairs, Part
from dmaxlit.data.lost_turns import rows_with_warnings
from dmaxlit.data.row_encoding import EncodingCounts, RowEncoder, encoded_parts
from dmaxlit.data.unknown_tokens import UnknownTokens
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.files import expanded, require_writable
from dmaxlit.tasks.records import BadRows

_SMALL = 8 * 2**20  # bytes of a corpus that is encoded within seconds
_MAX_PROCESSES = 16  # by default; one process reads for all


def encoded_corpus(
    corpus: Corpora, encoder: RowEncoder, cache_dir: str | None = None, num_proc: int | None = None
) -> PackedPairs:
    """Return the encoded rows of a corpus.

    Rows of files of 8 MiB or more, compressed or not, come from the cache, or go there. Others, and those of a task,
    are encoded in memory by this process.

    Args:
        corpus: The corpus.
        encoder: Encodes the rows.
        cache_dir: Folder of the cache. Default: ``$HF_HOME/dmaxlit``.
        num_proc: Number of processes that encode for the cache. Default: one for each core, at most 16.

    Raises:
        UserError: If the corpus cannot be read or has a row that cannot be used, or ``cache_dir`` cannot be written.
    """
    files = corpus.files()
    is_there = bool(files) and all(map(os.path.isfile, files))  # what is missing is refused where it is read
    if not is_there or sum(map(os.path.getsize, files)) < _SMALL:
        return encoded_in_memory(corpus, encoder)
    return encoded_in_cache(corpus, encoder, files, cache_dir, num_proc)


def encoded_in_cache(
    corpus: Corpora, encoder: RowEncoder, files: Sequence[Path], cache_dir: str | None, num_proc: int | None
) -> PackedPairs:
    """Return the encoded rows of a corpus from the cache, where they are kept if they are not there.

    Args:
        corpus: The corpus.
        encoder: Encodes the rows.
        files: Its files.
        cache_dir: Folder of the cache; see :func:`encoded_corpus`.
        num_proc: Number of processes that encode.

    Raises:
        UserError: As in :func:`encoded_corpus`.
    """
    folder = Path(HF_HOME) / "dmaxlit" if cache_dir is None else Path(expanded(cache_dir))
    cache = CorpusCache(folder, files, _key(corpus, encoder))
    if (opened := cache.open()) is not None:
        return _shown(*opened)
    if reason := _obstacle(cache.path):
        if cache_dir is not None:
            raise UserError(f"cache_dir: cannot write {str(cache.path)!r} ({reason})")
        rank_zero_warn(
            f"cache_dir: cannot write {str(folder)!r} ({reason}), so every process of every run encodes the corpus "
            "in its memory; name another folder",
            category=DMaxWarning,
        )
        return encoded_in_memory(corpus, encoder)
    job = _Encoding(corpus, encoder, num_proc or _default_processes(), shows_progress=True)
    rank_zero_info(f"corpus: encoding it into {str(cache.path)!r}, num_proc {job.num_proc}")
    rows, messages = cache.build(job.parts(), job.messages)
    return _shown(rows, replace(messages, warnings=[] if job.messages.warnings else messages.warnings))


def _key(corpus: Corpora, encoder: RowEncoder) -> dict[str, Any]:
    return encoding_key(
        encoder.tokenizer,
        **corpus.identity(),
        block_length=encoder.block_length,
        limit=encoder.limit,
        eos_fill=encoder.eos_fill,
        on_bad_row=encoder.on_bad_row,
    )


def _shown(rows: PackedPairs, messages: Messages) -> PackedPairs:
    """Return the rows, after what is to be said of them."""
    for warning in messages.warnings:
        rank_zero_warn(warning, category=DMaxWarning)
    for note in messages.notes:
        rank_zero_info(note)
    return rows


def encoded_in_memory(corpus: Corpora, encoder: RowEncoder) -> PackedPairs:
    """Return the encoded rows of a corpus in the memory of this process, which encodes them.

    Args:
        corpus: The corpus.
        encoder: Encodes the rows.

    Raises:
        UserError: If the corpus cannot be read or has a row that cannot be used.
    """
    job = _Encoding(corpus, encoder)
    return _shown(PackedPairs(job.parts()), Messages(notes=job.messages.notes))


@dataclass
class _Encoding:
    """The encoding of a corpus, and what is to be said of it; warnings are shown as they come."""

    corpus: Corpora
    encoder: RowEncoder
    num_proc: int = 1
    shows_progress: bool = False
    messages: Messages = field(default_factory=Messages)

    def parts(self) -> Iterator[Part]:
        counts, unknown = EncodingCounts(BadRows(self.encoder.on_bad_row)), UnknownTokens(self.encoder.tokenizer)
        rows = rows_with_warnings(self.corpus.rows(counts.bad), self.encoder.tokenizer, self.messages.warnings)
        with tqdm(desc="encoding", unit=" rows", leave=False, disable=None if self.shows_progress else True) as bar:
            for part in encoded_parts(rows, self.encoder, counts, self.num_proc):
                bar.update(counts.rows - bar.n)
                unknown.count(part.ids)
                yield part
        if unknown.warning:
            rank_zero_warn(unknown.warning, category=DMaxWarning)
            self.messages.warnings.append(unknown.warning)
        self.messages.notes += counts.notes(self.encoder.limit)
        if not counts.rows:
            for note in self.messages.notes:
                rank_zero_info(note)
            names = f" in {', '.join(map(repr, self.corpus.sources))}" if self.corpus.sources else ""
            raise UserError(f"corpus: expected at least one usable row, found none{names}")


def _obstacle(path: Path) -> str:
    """Return why a folder cannot be written; empty if it can."""
    try:
        require_writable(path / "x")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _default_processes() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MAX_PROCESSES)
