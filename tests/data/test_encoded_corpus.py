import hashlib
import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from dmaxlit.data import SelfDistilledDataModule, corpus_cache, encoded_corpus
from dmaxlit.data.arrow_rows import MappedPairs
from dmaxlit.data.corpora import Corpora
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.tasks import ChainTask
from tests.data.chat_tokenizers import byte_level

# Of rows and batches before there was a cache.
FINGERPRINT = "561 rows, d5e30c27e0a7dbe1"
BATCHES = "d8db4f548c3d5017e1cde9c6d1c3db24def0439d6baab582dc78f2ff9427b3be"


@pytest.fixture
def cached(monkeypatch):
    """Let corpora of any size count as large."""
    monkeypatch.setattr(encoded_corpus, "_SMALL", 0)


@pytest.fixture
def corpus(tmp_path):
    rows = []
    for n in range(500):
        if n % 7 == 3:
            rows.append({"text": "so 3 +1 is 4 . " * (1 + n % 40)})
        elif n % 11 == 5:
            rows.append({"prompt": "", "response": "so"})
        else:
            rows.append({"prompt": f"{n % 10} +1 *3 ?", "response": "so " * (1 + n % 13) + f"#### {n % 10}"})
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "corpus.jsonl"


def module(corpus, tokenizer=None, **options):
    defaults = {"cache_dir": str(corpus.parent / "cache"), "num_proc": 1, "on_bad_row": "skip", "max_length": 64}
    data = SelfDistilledDataModule(corpus=str(corpus), batch_size=7, seed=3, **{**defaults, **options})
    data.bind(ChainTask.tokenizer() if tokenizer is None else tokenizer, 8, 128)
    data.setup("fit")
    return data


def folders(corpus):
    """Return the names in the cache; there are no files next to folders, such as locks, after a normal end."""
    cache = corpus.parent / "cache"
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def digest_of_batches(data):
    digest = hashlib.sha256()
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            for name in ("ids", "roles", "index"):
                digest.update(batch[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture
def only_cache(monkeypatch):
    """Refuse to read a corpus."""

    def refuse():
        monkeypatch.setattr(Corpora, "rows", lambda *_: pytest.fail("the corpus is read"))

    return refuse


def test_a_small_corpus_is_encoded_in_memory_and_batches_stay_what_they_were(corpus):
    data = module(corpus)
    assert (data.fingerprint(), digest_of_batches(data)) == (FINGERPRINT, BATCHES)
    assert folders(corpus) == []


@pytest.mark.parametrize("num_proc", [1, 2])
def test_batches_from_the_cache_are_those_of_memory(corpus, cached, only_cache, num_proc, monkeypatch):
    monkeypatch.setattr("dmaxlit.data.row_encoding._CHUNK", 60)
    first = module(corpus, num_proc=num_proc)
    assert first.places([0, 400]) == [f"{corpus}, row 1", f"{corpus}, row 355"]
    only_cache()
    for data in first, module(corpus, num_proc=num_proc):
        assert isinstance(data.train_dataloader().dataset, MappedPairs)
        assert (data.fingerprint(), digest_of_batches(data)) == (FINGERPRINT, BATCHES)
    assert len(folders(corpus)) == 1


def test_every_start_says_what_the_first_did(corpus, cached, caplog, only_cache):
    corpus.write_text(
        '{"prompt": "", "response": "r"}\n'
        '{"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]}\n'
    )
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO), pytest.warns(DMaxWarning, match="row 2, and perhaps others") as caught:
            module(corpus, byte_level(None))
        assert len(caught) == 1
        assert "corpus: kept 1 rows, skipped 1: 1 has an empty prompt" in caplog.messages
        only_cache()


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


def test_a_folder_that_cannot_be_written_is_refused_if_named_and_else_done_without(corpus, cached, monkeypatch):
    (corpus.parent / "file").write_text("")
    with pytest.raises(UserError, match=r"^cache_dir: cannot write '.*/file/sub/corpus"):
        module(corpus, cache_dir=str(corpus.parent / "file" / "sub"))
    monkeypatch.setattr(encoded_corpus, "HF_HOME", str(corpus.parent / "file"))
    with pytest.warns(DMaxWarning, match=r"^cache_dir: cannot write '.*/file/dmaxlit' \(.*\), so every process of"):
        data = module(corpus, cache_dir=None)
    assert digest_of_batches(data) == BATCHES


def test_the_usual_place_is_that_of_hugging_face(corpus, cached, monkeypatch):
    monkeypatch.setattr(encoded_corpus, "HF_HOME", str(corpus.parent))
    module(corpus, cache_dir=None)
    assert {path.name for path in (corpus.parent / "dmaxlit").glob("*/*")} == {"rows.arrow", "manifest.json"}


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


def test_a_task_is_encoded_in_memory(tmp_path, cached):
    data = SelfDistilledDataModule(task="chain", num_train=10, cache_dir=str(tmp_path / "cache"))
    data.bind(ChainTask.tokenizer(), 32, 128)
    data.setup("fit")
    assert not (tmp_path / "cache").exists()


def test_hub_data_sets_are_kept_by_their_files(corpus, cached, monkeypatch, only_cache):
    from datasets import Dataset

    table = Dataset.from_list([{"prompt": f"{n} ?", "response": "so"} for n in range(5)])
    table.save_to_disk(str(corpus.parent / "hub"))
    table = Dataset.load_from_disk(str(corpus.parent / "hub"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: table)
    options = {"cache_dir": str(corpus.parent / "cache"), "num_proc": 1}
    prints = []
    for _ in range(2):
        data = SelfDistilledDataModule(corpus="owner/name", **options)
        data.bind(ChainTask.tokenizer(), 8, 64)
        data.setup("fit")
        prints.append(data.fingerprint())
        only_cache()
    assert prints[0] == prints[1]
    assert [name[:14] for name in folders(corpus)] == ["data-00000-of-"]


@pytest.mark.parametrize("value", [0, 257])
def test_a_number_of_processes_out_of_range_is_refused(value):
    with pytest.raises(UserError, match=f"^num_proc: expected at (least 1|most 256 processes), got {value}"):
        SelfDistilledDataModule(task="chain", num_proc=value)


def test_a_change_of_the_encoding_raises_its_version(corpus):
    # If this fails, rows are encoded in another way than before: raise corpus_cache.ENCODING_VERSION, so that no cache
    # holds the old ones, and set the fingerprints above to the new ones.
    assert (corpus_cache.ENCODING_VERSION, module(corpus).fingerprint()) == (1, FINGERPRINT)


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
