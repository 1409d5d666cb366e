import itertools
import json

import pytest
import torch

from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.data.streamed_batches import first_state
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask
from tests.data.streaming import numbers_of, streamed, write_shards


def batches_of(loader):
    return [(batch["index"].tolist(), numbers_of(batch)) for batch in loader]


def loader_of(data, world_size=1, rank=0):
    data._rank_and_world_size = lambda: (rank, world_size)
    return data.train_dataloader()


def test_every_row_comes_once_an_epoch_in_another_order(tmp_path):
    folder = write_shards(tmp_path / "c", [12, 13, 14])
    loader = streamed(folder).train_dataloader()
    epochs = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        batches = batches_of(loader)
        assert [len(indices) for indices, _ in batches] == [4] * 9 + [3]
        assert list(itertools.chain(*(indices for indices, _ in batches))) == list(range(39))
        epochs.append(list(itertools.chain(*(numbers for _, numbers in batches))))
        assert sorted(epochs[-1]) == list(range(39))
    assert epochs[0] != epochs[1]
    loader.set_epoch(0)
    assert list(itertools.chain(*(numbers for _, numbers in batches_of(loader)))) == epochs[0]


def test_rows_are_what_they_are_without_streaming(tmp_path):
    folder = write_shards(tmp_path / "c", [6, 3])
    whole = SelfDistilledDataModule(folder, batch_size=9)
    whole.bind(ChainTask.tokenizer(), 4, 16)
    whole.setup("fit")
    expected, data = whole.first_rows(9), streamed(folder)
    got = data.first_rows(9)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert data.places([0, 8]) == whole.places([0, 8])
    assert data.first_rows(20)["index"].tolist() == list(range(9))


@pytest.mark.parametrize(("rows", "batch_size", "world_size"), [(39, 4, 2), (41, 2, 2), (40, 3, 3), (38, 4, 3)])
def test_ranks_share_the_batches_of_one_process(tmp_path, rows, batch_size, world_size):
    folder = write_shards(tmp_path / "c", [rows - 20, 20])
    alone = batches_of(streamed(folder, batch_size=batch_size * world_size).train_dataloader())
    if len(alone[-1][0]) < world_size:
        alone.pop()
    ranks = [
        batches_of(loader_of(streamed(folder, batch_size=batch_size), world_size, rank)) for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    for whole, *shares in zip(alone, *ranks, strict=True):
        for rank, (indices, numbers) in enumerate(shares):
            assert (indices, numbers) == (whole[0][rank::world_size], whole[1][rank::world_size])


@pytest.mark.parametrize("text", [True, False])
def test_ranks_are_even_where_rows_become_no_or_several_sequences(tmp_path, text):
    def make(number):
        digits = " ".join([*f"{number:04d}"] * (1 + 4 * (number % 3)))
        return {"text": digits} if text else {"prompt": "take ?", "response": digits}

    folder = write_shards(tmp_path / "c", [21, 20], make=make)
    options = {"on_bad_row": "skip"}
    alone = list(streamed(folder, batch_size=8, **options).train_dataloader())
    for world_size, workers in ((1, 2), (2, 0)):
        loaders = [
            loader_of(streamed(folder, batch_size=8 // world_size, num_workers=workers, **options), world_size, rank)
            for rank in range(world_size)
        ]
        kept = [batch for batch in alone if len(batch["index"]) >= world_size]
        assert len(kept) > 1
        for whole, *shares in zip(kept, *loaders, strict=True):
            for rank, share in enumerate(shares):
                length = share["ids"].shape[1]
                assert torch.equal(share["index"], whole["index"][rank::world_size])
                assert torch.equal(share["ids"], whole["ids"][rank::world_size, :length])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.filterwarnings("ignore:.*suggested max number of worker")
def test_loader_processes_change_neither_order_nor_content(tmp_path, workers):
    folder = write_shards(tmp_path / "c", [12, 13])
    alone = batches_of(streamed(folder).train_dataloader())
    loader = streamed(folder, num_workers=workers).train_dataloader()
    assert batches_of(loader) == alone
    for seen in (3, len(alone)):
        list(itertools.islice(loader, seen))
        again = streamed(folder, num_workers=workers).train_dataloader()
        again.load_state_dict(loader.state_dict())
        assert batches_of(again) == alone[seen:]


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("ahead", [0, 1])
def test_a_loader_goes_on_from_its_state_once(tmp_path, epoch, ahead):
    rows = streamed(write_shards(tmp_path / "c", [12, 13]))._train_rows
    collate = streamed(str(tmp_path / "c"))._collate()

    def fresh():
        return rows.loader(collate, 4, seed=1, ahead=ahead)

    loader = fresh()
    loader.set_epoch(epoch)
    whole = batches_of(loader)
    for taken in range(len(whole) + 1):
        loader = fresh()
        loader.set_epoch(epoch)
        list(itertools.islice(loader, taken))
        used = max(taken - ahead, 0)
        again = fresh()
        again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert again.state_dict()["epoch"] == loader.state_dict()["epoch"] == (epoch if taken else 0)
        again.set_epoch(epoch)
        assert batches_of(again) == whole[used:]
        assert batches_of(again) == whole
    assert batches_of(loader) == whole  # to its end
    assert loader.state_dict() == first_state(epoch + 1)
    again.load_state_dict(loader.state_dict())
    loader.set_epoch(epoch + 1)
    assert batches_of(again) == batches_of(loader) != whole


@pytest.mark.parametrize(("batch_size", "world_size"), [(2, 1), (3, 2), (4, 2), (16, 1)])
def test_a_state_holds_for_other_batches_and_ranks(tmp_path, batch_size, world_size):
    folder = write_shards(tmp_path / "c", [30, 13])
    loader = streamed(folder).train_dataloader()
    list(itertools.islice(loader, 3))
    seen = batches_of(loader)[:3]
    list(itertools.islice(loader, 3))
    rest = []
    for rank in range(world_size):
        again = loader_of(streamed(folder, batch_size=batch_size), world_size, rank)
        again.load_state_dict(loader.state_dict())
        rest += itertools.chain(*(numbers for _, numbers in batches_of(again)))
    seen = list(itertools.chain(*(numbers for _, numbers in seen)))
    assert not set(seen) & set(rest)
    assert len(set(rest)) == len(rest)
    dropped = (43 - 12) % (batch_size * world_size)
    assert len(rest) == 31 - (dropped if dropped < world_size else 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_row_is_one_line_behind_the_batches_before_it(tmp_path, workers):
    folder = write_shards(
        tmp_path / "c", [30], make=lambda number: {"prompt": "" if number == 25 else "so", "response": "2"}
    )
    batches = iter(streamed(folder, num_workers=workers).train_dataloader())
    assert len(list(itertools.islice(batches, 4))) == 4
    with pytest.raises(UserError, match=r"^/.*/0.jsonl, row 26: has an empty prompt$"):
        list(batches)


def test_skipped_rows_are_counted_while_they_are_read(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("dmaxlit.data.stream_loader.rank_zero_info", lines.append)
    folder = write_shards(
        tmp_path / "c", [200], make=lambda number: {"prompt": "so" * (number % 20 > 0), "response": "2"}
    )
    loader = streamed(folder, on_bad_row="skip", shuffle_buffer=30).train_dataloader()
    assert len(list(loader)) == 48
    assert lines[-1] == "corpus: kept 190 rows, skipped 10: 10 has an empty prompt"
    assert 2 < len(lines) < 6
    lines.clear()
    loader.set_epoch(1)
    list(loader)
    assert lines == []


def test_a_corpus_without_a_row_for_each_rank_is_refused(tmp_path):
    data = streamed(write_shards(tmp_path / "c", [2]))
    for rank in range(3):
        with pytest.raises(UserError, match=r"corpus: expected at least one row for each of 3 ranks, found 2"):
            list(loader_of(data, 3, rank))
    empty = streamed(write_shards(tmp_path / "d", [2], make=lambda _: {}), on_bad_row="skip")
    with pytest.raises(UserError, match=r"corpus: expected at least one usable row, found none"):
        list(empty.train_dataloader())
