import logging
import os
import signal
import time
from pathlib import Path

import pytest

from dmaxlit.data import corpus_cache, file_states
from dmaxlit.data.corpora import Corpora
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask
from tests.data.mixed_corpus import BATCHES, FINGERPRINT, digest_of_batches, folders, module
from tests.lock_holder import held_by_another


def test_a_corpus_that_changed_is_encoded_again_in_its_place(corpus, cached, caplog):
    before = module(corpus)
    text = corpus.read_text().replace("#### 3", "#### 4")
    corpus.write_text(text)
    with caplog.at_level(logging.INFO):
        after = module(corpus)
    assert f"corpus: {str(corpus)!r} has changed since it was encoded, and is encoded again" in caplog.messages
    assert after.fingerprint() != before.fingerprint() == FINGERPRINT
    assert len(before.train_dataloader().dataset[5][1]) > 0  # still mapped
    assert len(folders(corpus)) == 1


def test_a_corpus_that_was_touched_is_compared_once(corpus, cached, monkeypatch):
    module(corpus)
    os.utime(corpus, (1, 1))
    manifest = corpus.parent / "cache" / folders(corpus)[0] / "manifest.json"
    before = manifest.read_bytes()
    genuine, compared = file_states._content_hash, []
    monkeypatch.setattr(file_states, "_content_hash", lambda path: compared.append(path) or genuine(path))
    with held_by_another(manifest.parent):
        assert module(corpus).fingerprint() == FINGERPRINT
    assert manifest.read_bytes() == before  # which another process may be about to replace
    for _ in range(2):
        assert module(corpus).fingerprint() == FINGERPRINT
    assert compared == [str(corpus)] * 2
    assert len(folders(corpus)) == 1


def test_what_rows_depend_on_has_a_place_of_its_own(corpus, cached):
    tokenizer = ChainTask.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    others = [{}, {"max_length": 72}, {"eos_fill": 2}, {"columns": {"prompt": "prompt"}}, {"tokenizer": tokenizer}]
    for number, options in enumerate(others, start=1):
        module(corpus, **options)
        assert len(folders(corpus)) == number
    with pytest.raises(UserError, match="row 6: has an empty prompt"):  # which the cache of the other policy left out
        module(corpus, on_bad_row="error")


@pytest.mark.parametrize("damage", ["rows", "manifest", "no rows", "key"])
def test_a_damaged_cache_is_one_line_and_written_again(corpus, cached, caplog, damage):
    module(corpus)
    folder = corpus.parent / "cache" / folders(corpus)[0]
    manifest = folder / "manifest.json"
    if damage == "rows":
        os.truncate(folder / "rows.arrow", 1000)
    elif damage == "no rows":
        (folder / "rows.arrow").unlink()
    else:
        manifest.write_text("{" if damage == "manifest" else manifest.read_text().replace('"limit": 64', '"limit": 72'))
    with caplog.at_level(logging.INFO):
        assert digest_of_batches(module(corpus)) == BATCHES
    (line,) = [line for line in caplog.messages if line.startswith("cache_dir: ")]
    assert line.startswith(f"cache_dir: {str(folder)!r} is damaged (")
    assert "\n" not in line
    caplog.clear()
    module(corpus)
    assert caplog.messages[:1] != [line]


def test_a_corpus_that_changes_while_it_is_read_is_refused(corpus, cached, monkeypatch):
    rows = Corpora.rows

    def changing(self, bad):
        for number, row in enumerate(rows(self, bad)):
            if number == 3:
                with corpus.open("a") as file:
                    file.write("\n")
            yield row

    monkeypatch.setattr(Corpora, "rows", changing)
    with pytest.raises(UserError, match=r"^corpus: expected '.*corpus.jsonl' to stay as it is while it is read, but"):
        module(corpus)
    assert folders(corpus) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(corpus, cached, monkeypatch):
    def full(path, parts):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dmaxlit.data.arrow_rows.write_parts", full)
    with pytest.raises(UserError, match=r"^cache_dir: cannot write '.*' \(.*No space left on device\)$"):
        module(corpus)
    assert folders(corpus) == []


def in_child(function):
    """Run a function in a forked process, and return that process's id."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def test_what_a_killed_process_left_is_neither_used_nor_kept(corpus, cached, monkeypatch):
    def die(path, parts):
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    def start():
        monkeypatch.setattr("dmaxlit.data.arrow_rows.write_parts", die)
        module(corpus)

    _, status = os.waitpid(in_child(start), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert any(name.endswith(".unfinished") for name in folders(corpus))
    assert digest_of_batches(module(corpus)) == BATCHES
    assert len(folders(corpus)) == 1


def test_of_processes_that_start_together_one_encodes_and_the_others_wait(corpus, cached, monkeypatch, caplog):
    rows = Corpora.rows

    def counted(self, bad):
        (corpus.parent / f"read-by-{os.getpid()}").write_text("")
        time.sleep(0.5)
        return rows(self, bad)

    monkeypatch.setattr(Corpora, "rows", counted)

    def start():
        assert module(corpus).fingerprint() == FINGERPRINT

    children = [in_child(start) for _ in range(2)]
    while not list(corpus.parent.glob("read-by-*")):
        time.sleep(0.01)
    with caplog.at_level(logging.INFO):
        assert digest_of_batches(module(corpus)) == BATCHES
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    (reader,) = corpus.parent.glob("read-by-*")
    process = reader.name.removeprefix("read-by-")
    assert any(line.startswith(f"corpus: waiting for process {process} on ") for line in caplog.messages)
    assert len(folders(corpus)) == 1


def test_who_waits_for_a_process_that_fails_encodes_itself(corpus, cached, monkeypatch):
    rows, parent = Corpora.rows, os.getpid()

    def failing(self, bad):
        if os.getpid() == parent:
            return rows(self, bad)
        (corpus.parent / "reading").write_text("")
        time.sleep(0.7)
        raise UserError("no")

    monkeypatch.setattr(Corpora, "rows", failing)
    child = in_child(lambda: module(corpus))
    while not (corpus.parent / "reading").exists():
        time.sleep(0.01)
    assert digest_of_batches(module(corpus)) == BATCHES
    assert os.waitpid(child, 0)[1] != 0
    assert len(folders(corpus)) == 1


def test_a_change_of_the_encoding_raises_its_version(corpus):
    # If this fails, rows are encoded in another way than before: raise corpus_cache.ENCODING_VERSION, so that no cache
    # holds the old ones, and set the fingerprints of mixed_corpus.py to the new ones.
    assert (corpus_cache.ENCODING_VERSION, module(corpus).fingerprint()) == (3, FINGERPRINT)


def test_a_tokenizers_hash_is_that_of_all_it_saves(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = ChainTask.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    first = corpus_cache.tokenizer_hash(tokenizer)
    assert first == corpus_cache.tokenizer_hash(ChainTask.tokenizer())
    assert first == corpus_cache.tokenizer_hash(AutoTokenizer.from_pretrained(tmp_path))
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    second = corpus_cache.tokenizer_hash(tokenizer)
    tokenizer.chat_template = {"default": "a", "tool_use": "c"}
    hashes = {first, second, corpus_cache.tokenizer_hash(tokenizer)}
    tokenizer.add_tokens(["new"])
    assert len(hashes | {corpus_cache.tokenizer_hash(tokenizer)}) == 4
    assert not list(Path(tmp_path).glob("dmaxlit-*"))
