import logging

import pytest

from dmaxlit.data import SelfDistilledDataModule, encoded_corpus
from dmaxlit.data.arrow_rows import MappedPairs
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.tasks import ChainTask
from tests.data.chat_tokenizers import byte_level
from tests.data.mixed_corpus import BATCHES, FINGERPRINT, digest_of_batches, folders, module


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


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_corpus_that_the_tokenizer_cannot_write_is_warned_of_at_every_start(corpus, request, is_cached):
    if is_cached:
        request.getfixturevalue("cached")
    corpus.write_text(
        '{"prompt": "3 +1 ?", "response": "so 4"}\n{"prompt": "The capital of France?", "response": "Paris"}\n'
    )
    for _ in range(2):
        with pytest.warns(
            DMaxWarning, match=r"^corpus: \d\d% of its tokens are unknown .*, and learnt as <unk>;"
        ) as caught:
            module(corpus)
        assert len(caught) == 1


def test_a_folder_that_cannot_be_written_is_refused_if_named_and_else_done_without(corpus, cached, monkeypatch, caplog):
    (corpus.parent / "file").write_text("")
    with pytest.raises(UserError, match=r"^cache_dir: cannot write '.*/file/sub/corpus"):
        module(corpus, cache_dir=str(corpus.parent / "file" / "sub"))
    assert not [line for line in caplog.messages if "encoding it into" in line]
    monkeypatch.setattr(encoded_corpus, "HF_HOME", str(corpus.parent / "file"))
    with pytest.warns(DMaxWarning, match=r"^cache_dir: cannot write '.*/file/dmaxlit' \(.*\), so every process of"):
        data = module(corpus, cache_dir=None)
    assert digest_of_batches(data) == BATCHES


def test_the_usual_place_is_that_of_hugging_face(corpus, cached, monkeypatch):
    monkeypatch.setattr(encoded_corpus, "HF_HOME", str(corpus.parent))
    module(corpus, cache_dir=None)
    assert {path.name for path in (corpus.parent / "dmaxlit").glob("*/*")} == {"rows.arrow", "manifest.json"}


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
