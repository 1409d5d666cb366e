import json
import multiprocessing

import pyarrow as pa
import pytest
from torch.utils.data import DataLoader, IterableDataset

from dmaxlit.data.shards import shards_of
from dmaxlit.errors import UserError
from dmaxlit.tasks.records import BadRows, read_records
from tests.data.streaming import write_shards
from tests.hub_stand_in import COMMIT, hub_with
from tests.tasks.test_records import point_to


def records_of(shard, begin=None):
    return list(shard.records(BadRows("error"), begin or {}))


def test_a_shard_is_read_from_any_row_on_as_a_corpus_is_read(tmp_path):
    folder = write_shards(tmp_path / "c", [5, 230])
    (tmp_path / "c" / "2.json").write_text('[{"text": "a"}, {"text": "b"}]')
    with pa.CompressedOutputStream(tmp_path / "c" / "3.jsonl.zst", "zstd") as file:
        file.write(b'{"text": "c"}\n' * 4)
    shards = shards_of([folder], "train")
    assert len(shards) == 4
    read = [record for shard in shards for record in records_of(shard)]
    assert [record[:2] for record in read] == list(read_records(folder, "", BadRows("error")))
    for shard in shards:
        whole = records_of(shard)
        for number in range(0, len(whole), 1 if len(whole) < 9 else 23):
            rest = records_of(shard, json.loads(json.dumps(whole[number][2])))
            assert [record[:2] for record in rest] == [record[:2] for record in whole[number + 1 :]]
            if rest:
                again = records_of(shard, rest[0][2])
                assert [record[:2] for record in again] == [record[:2] for record in rest[1:]]


def test_lines_that_are_dropped_do_not_move_the_others(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a"}\n{"te\n{"text": "b"}\n{"text": "c"}\n')
    (shard,) = shards_of([str(path)], "train")
    whole = list(shard.records(BadRows("skip"), {}))
    assert [location for location, *_ in whole] == [f"{path}, row {number}" for number in (1, 3, 4)]
    assert list(shard.records(BadRows("skip"), whole[1][2])) == whole[2:]


@pytest.mark.parametrize(("number", "expected"), [(0, 2), (1, 1), (2, 0)])
def test_lines_that_are_dropped_are_counted_from_where_the_reading_begins(tmp_path, number, expected):
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a"}\n{"te\n{"text": "b"}\n{"te\n{"text": "c"}\n')
    (shard,) = shards_of([str(path)], "train")
    bad = BadRows("skip")
    bad.counts["is not valid JSON"] = 5
    state = list(shard.records(BadRows("skip"), {}))[number][2]
    assert len(list(shard.records(bad, state))) == 2 - number
    assert bad.counts == {"is not valid JSON": 5 + expected}


class Records(IterableDataset[object]):
    def __init__(self, shard):
        self.shard = shard

    def __iter__(self):
        return iter(records_of(self.shard))


def test_each_process_of_a_loader_reads_a_whole_table(tmp_path):
    (_, shard) = shards_of([write_shards(tmp_path / "c", [1, 9])], "train")
    context = multiprocessing.get_context("fork")
    read = list(DataLoader(Records(shard), batch_size=None, num_workers=2, multiprocessing_context=context))
    assert sorted(location for location, *_ in read) == sorted([location for location, *_ in records_of(shard)] * 2)


def test_names_and_sizes_of_files_are_known_without_reading_them(tmp_path):
    shards = shards_of([write_shards(tmp_path / "c", [1, 9])], "train")
    assert [shard.identity for shard in shards] == [
        [path.name, path.stat().st_size] for path in sorted((tmp_path / "c").iterdir())
    ]


def test_what_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"^corpus: no such file: '.*a.parquet'$"):
        shards_of([str(tmp_path / "a.parquet")], "train")
    with pytest.raises(UserError, match=r"^corpus: expected a .jsonl, .* file in '.*', found none$"):
        shards_of([str(tmp_path)], "train")


def test_a_damaged_table_is_refused_with_the_rows_before(tmp_path):
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    (shard,) = shards_of([str(path)], "train")
    with pytest.raises(UserError, match=r"^corpus: cannot read '.*c.parquet' after row 0: \w+: [^\n]+$"):
        records_of(shard)


CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: [main/a.jsonl, main/b.jsonl]}
---
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    write_shards(tmp_path / "c", [12])
    lines = (tmp_path / "c" / "0.jsonl").read_bytes().splitlines(keepends=True)
    files = {"README.md": CARD.encode(), "main/a.jsonl": b"".join(lines[:7]), "main/b.jsonl": b"".join(lines[7:])}
    with hub_with({"some/set": files}) as (address, requests):
        point_to(monkeypatch, address, tmp_path / "cache")
        yield requests


def test_a_hub_data_set_is_fetched_file_by_file_as_it_is_read(hub):
    first, second = shards_of(["some/set:main"], "train")
    hub.clear()  # the beginning of a file may have been looked at
    assert first.identity != second.identity
    assert f"hf://datasets/some/set@{COMMIT}/main/b.jsonl" in str(second.identity)
    whole = records_of(second)
    assert [location for location, *_ in whole] == [
        f"some/set:main, split train, shard 2, row {number}" for number in range(1, 6)
    ]
    assert [record["response"] for _, record, _ in whole] == [f"0 0 {n // 10} {n % 10}" for n in range(7, 12)]
    assert not [request for request in hub if request.startswith("GET") and request.endswith("a.jsonl")]
    assert [record[:2] for record in records_of(second, whole[2][2])] == [record[:2] for record in whole[3:]]
    with pytest.raises(UserError, match=r"^corpus: 'some/set:main' is no file, .* split 'val': ValueError: [^\n]+$"):
        shards_of(["some/set:main"], "val")


def test_an_unreachable_hub_is_one_line_without_the_attempts_of_its_client(monkeypatch, tmp_path, caplog, capfd):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    point_to(monkeypatch, "http://127.0.0.1:1", tmp_path)
    with pytest.raises(UserError, match=r"^corpus: 'some/set' is no file, .*: Couldn't reach 'some/set'"):
        shards_of(["some/set"], "train")
    assert caplog.messages == []
    assert capfd.readouterr().err == ""
