import pickle

import numpy as np
import pytest

from dmaxlit.data.arrow_rows import MappedPairs, write_parts
from dmaxlit.data.dataset import PackedPairs, Part
from dmaxlit.errors import UserError


def part(lengths, first):
    ids = np.arange(sum(lengths), dtype=np.int32) + first
    numbers = np.arange(len(lengths)) * 2 + first
    return Part(ids, np.cumsum(lengths), np.array([1] * len(lengths)), numbers)


PARTS = [part([3, 1, 4], 0), part([2], 10), part([1, 1], 30)]


@pytest.fixture
def path(tmp_path):
    write_parts(tmp_path / "rows.arrow", PARTS)
    return tmp_path / "rows.arrow"


def items(pairs):
    return [(index, ids.tolist(), ids.dtype, length) for index, ids, length in pairs]


def test_a_file_holds_the_rows_that_were_written(path):
    mapped, packed = MappedPairs(path), PackedPairs(PARTS)
    assert len(mapped) == 6
    assert items(mapped) == items(packed)
    assert mapped.fingerprint() == packed.fingerprint()
    assert mapped.lengths().tolist() == [3, 1, 4, 2, 1, 1]
    assert [mapped.number(index) for index in range(6)] == [0, 2, 4, 10, 30, 32]
    with pytest.raises(IndexError):
        mapped[6]


def test_rows_are_parts_of_the_mapped_file_and_stay_after_it_is_replaced(path):
    mapped = MappedPairs(path)
    assert not any(array.flags.owndata or array.flags.writeable for array in vars(mapped.parts[0]).values())
    path.unlink()
    assert mapped[4][1].tolist() == [30]


def test_pickled_it_is_the_path_and_refuses_another_file(path, tmp_path):
    pickled = pickle.dumps(MappedPairs(path, "x"))
    assert len(pickled) < 400
    copy = pickle.loads(pickled)
    assert items(copy) == items(PackedPairs(PARTS))
    assert copy.fingerprint() == "x"
    write_parts(path, PARTS[:1])
    with pytest.raises(UserError, match=r"^cache_dir: expected '.*rows.arrow' to stay as it is during a run, but"):
        pickle.loads(pickled)


def test_datasets_opens_the_file_too(path):
    from datasets import Dataset

    table = Dataset.from_file(str(path))
    assert table[3] == {"ids": [10, 11], "prompt_length": 1, "row": 10}


def test_what_is_no_such_file_is_refused(tmp_path, path):
    (tmp_path / "x").write_bytes(b"not an Arrow file")
    with pytest.raises((OSError, ValueError)):
        MappedPairs(tmp_path / "x")
    with pytest.raises(OSError, match="x/rows"):
        write_parts(tmp_path / "x" / "rows", PARTS)
