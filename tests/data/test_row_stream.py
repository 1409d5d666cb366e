import json
from collections import Counter
from itertools import chain

import pytest

from dmaxlit.data.row_stream import RowStream
from dmaxlit.data.shards import shards_of
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask
from dmaxlit.tasks.records import BadRows
from tests.data.streaming import write_shards


def stream_of(folder, buffer=10, seed=1):
    return RowStream(shards_of([folder], "train"), {}, ChainTask.tokenizer(), buffer, seed)


def blocks_of(stream, epoch=0, begin=None):
    return list(stream.blocks(epoch, BadRows("error"), begin))


def responses(blocks):
    return [[int(row.response.replace(" ", "")) for row in block.rows] for block in blocks]


def test_shards_and_the_rows_of_a_block_are_shuffled_by_seed_and_epoch(tmp_path):
    folder = write_shards(tmp_path / "c", [12, 13, 14, 15])
    orders = [
        responses(blocks_of(stream_of(folder, seed=seed), epoch)) for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0))
    ]
    assert orders[0] == orders[3]
    assert len({str(order) for order in orders}) == 3
    for order in orders:
        assert [len(block) for block in order] == [10, 10, 10, 10, 10, 4]
        assert Counter(chain(*order)) == Counter(range(54))
        assert all(block != sorted(block) for block in order)
    assert {tuple(sorted(block)) for block in orders[0]} != {tuple(sorted(block)) for block in orders[1]}


def test_without_a_seed_rows_keep_the_order_of_the_corpus(tmp_path):
    folder = write_shards(tmp_path / "c", [12, 13])
    for epoch in (0, 3):
        assert list(chain(*responses(blocks_of(stream_of(folder, seed=None), epoch)))) == list(range(25))


@pytest.mark.parametrize("buffer", [3, 7, 100])
def test_any_block_can_be_the_first_one(tmp_path, buffer):
    stream = stream_of(write_shards(tmp_path / "c", [12, 13, 14]), buffer)
    blocks = blocks_of(stream, epoch=2)
    for number, block in enumerate(blocks):
        assert blocks_of(stream, 2, json.loads(json.dumps(block.state))) == blocks[number:]


def test_rows_that_changed_under_a_run_are_noticed(tmp_path):
    folder = write_shards(tmp_path / "c", [12])
    stream = stream_of(folder)
    state = blocks_of(stream)[1].state
    path = tmp_path / "c" / "0.jsonl"
    text = path.read_text()
    path.write_text(text.replace("0 0 1 1", "0 0 1 2"))
    expected = r"^corpus: expected the rows that the run has read, but .*0.jsonl, row 11 to .*0.jsonl, row 12 have"
    with pytest.raises(UserError, match=expected):
        blocks_of(stream, 0, state)
    path.write_text("".join(text.splitlines(keepends=True)[:10]))
    with pytest.raises(UserError, match=r"^corpus: expected the rows that the run has read, but they are there no m"):
        blocks_of(stream, 0, state)
