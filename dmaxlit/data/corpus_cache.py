"""Encoded corpora on the disk: encoded once, and mapped by every later start and every rank.

A folder of the cache holds ``rows.arrow`` (:mod:`~dmaxlit.data.arrow_rows`) and ``manifest.json``: what the rows depend
on, and the state of the corpus's files. Its name is a hash of the former, so that a corpus which changes is encoded
again in the same place. Folders can be removed at any time.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import tokenizers
import transformers
from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.dataset import Part
from dmaxlit.data.file_states import FileState, first_change, recorded_states
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import read_json, staged, write_json
from dmaxlit.locks import exclusive

if TYPE_CHECKING:
    from dmaxlit.data.arrow_rows import MappedPairs

# To be raised with every change of what a row becomes; tests/data/test_corpus_cache.py notices.
ENCODING_VERSION = 3
_ORIGIN = {"is_local", "local_files_only", "name_or_path"}  # in a tokenizer's configuration
_ROWS, _MANIFEST = "rows.arrow", "manifest.json"


@dataclass
class Messages:
    """What a user is to know of the rows, at every start.

    Args:
        notes: Lines of information.
        warnings: Warnings.
    """

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CorpusCache:
    """One corpus in the cache, as encoded for one model.

    Args:
        folder: The folder of the cache.
        files: The files of the corpus.
        key: What the rows depend on beside these, as plain values.
    """

    folder: Path
    files: Sequence[Path]
    key: dict[str, Any]

    @property
    def path(self) -> Path:
        """Folder of this corpus."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", self.files[0].name)[:40]
        return self.folder / f"{name}-{hashlib.sha256(json.dumps(self.key).encode()).hexdigest()[:16]}"

    def open(self, says_why_not: bool = True) -> "tuple[MappedPairs, Messages] | None":
        """Return the encoded rows; None if they are not there, damaged, or those of what the files were before.

        Args:
            says_why_not: Tell the user of rows that are there and cannot be used.
        """
        if not (self.path / _MANIFEST).exists():
            return None
        from dmaxlit.data.arrow_rows import MappedPairs  # PyArrow, which runs on small corpora do without

        try:
            manifest = read_json(self.path / _MANIFEST)
            if manifest["key"] != self.key or manifest["bytes"] != (self.path / _ROWS).stat().st_size:
                raise ValueError("another content than its manifest says")
            states = [FileState.of(path) for path in self.files]
            if (changed := first_change(manifest["files"], states)) is not None:
                if says_why_not:
                    rank_zero_info(f"corpus: {changed!r} has changed since it was encoded, and is encoded again")
                return None
            self._note_times(manifest, states)
            rows = MappedPairs(self.path / _ROWS, manifest["fingerprint"])
            return rows, Messages(**manifest["messages"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if says_why_not:
                reason = reason_of(error)
                rank_zero_info(f"cache_dir: {str(self.path)!r} is damaged ({reason}); the corpus is encoded again")
            return None

    def _note_times(self, manifest: dict[str, Any], states: Sequence[FileState]) -> None:
        """Record new times of files whose content is the same, where that is possible, so that it is compared once."""
        files = [before | asdict(state) for before, state in zip(manifest["files"], states, strict=True)]
        if files == manifest["files"]:
            return
        with suppress(UserError, OSError), exclusive(self.path, "cache_dir"):
            if read_json(self.path / _MANIFEST) == manifest:  # not written anew meanwhile
                write_json(self.path / _MANIFEST, manifest | {"files": files})

    def build(self, parts: Iterable[Part], messages: Messages) -> "tuple[MappedPairs, Messages]":
        """Write the encoded rows and return them; if another process is doing so, wait and return its rows.

        Args:
            parts: The encoded rows; iterated only in the process that writes.
            messages: Complete when the parts are.

        Raises:
            UserError: If the rows cannot be encoded or written, or a file changes meanwhile.
        """
        with suppress(OSError):  # which the next line reports
            self.folder.mkdir(parents=True, exist_ok=True)  # so that who fails does not take it from who waits
        with exclusive(self.path, "cache_dir", on_wait=_say_who_encodes):
            if (opened := self.open(says_why_not=False)) is None:
                with staged(self.path, "cache_dir") as staging:
                    self._write(staging, parts, messages)
                opened = self.open()
        if opened is None:
            raise UserError(f"corpus: expected its files to stay as they are while {str(self.path)!r} is written")
        return opened

    def _write(self, staging: Path, parts: Iterable[Part], messages: Messages) -> None:
        from dmaxlit.data.arrow_rows import MappedPairs, write_parts

        states = [FileState.of(path) for path in self.files]
        files = recorded_states(states)
        begin = time.monotonic()
        write_parts(staging / _ROWS, parts)
        for state in states:
            if FileState.of(Path(state.path)) != state:
                raise UserError(f"corpus: expected {state.path!r} to stay as it is while it is read, but it changed")
        rows = MappedPairs(staging / _ROWS)
        manifest = {
            "key": self.key,
            "files": files,
            "bytes": rows.version[0],
            "fingerprint": rows.fingerprint(),
            "messages": vars(messages),
        }
        write_json(staging / _MANIFEST, manifest)
        seconds = time.monotonic() - begin
        rank_zero_info(f"corpus: {len(rows)} sequences encoded in {seconds:.0f} s, kept in {str(self.path)!r}")


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of all that a tokenizer saves, chat templates included, but for where it came from."""
    digest = hashlib.sha256()
    with TemporaryDirectory(prefix="dmaxlit-") as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                if path.name == "tokenizer_config.json":
                    config = json.loads(content)
                    content = json.dumps({name: config[name] for name in config if name not in _ORIGIN}).encode()
                digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def encoding_key(tokenizer: PreTrainedTokenizerBase, **settings: Any) -> dict[str, Any]:
    """Return what encoded rows depend on, for a :class:`CorpusCache`.

    Args:
        tokenizer: The tokenizer that encodes them.
        settings: Further values, which JSON can express.
    """
    libraries = {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__}
    return {"version": ENCODING_VERSION, **libraries, "tokenizer": tokenizer_hash(tokenizer), **settings}


def _say_who_encodes(process: str) -> None:
    rank_zero_info(f"corpus: waiting for {process}, which encodes it")
