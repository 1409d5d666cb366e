import os
import shutil

import pytest

from dmaxlit.data import file_states
from dmaxlit.data.file_states import FileState, first_change, recorded_states


@pytest.fixture
def files(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name * 3)
    return [tmp_path / "a", tmp_path / "b"]


def states(files):
    return [FileState.of(file) for file in files]


def test_files_that_stay_are_not_read_again(files, monkeypatch):
    recorded = recorded_states(states(files))
    monkeypatch.setattr(file_states, "_content_hash", None)
    assert first_change(recorded, states(files)) is None


def test_a_copy_with_the_same_content_is_no_change(files):
    recorded = recorded_states(states(files))
    os.utime(files[0], (1, 1))
    shutil.copy(files[1], f"{files[1]}.new")
    os.replace(f"{files[1]}.new", files[1])
    assert first_change(recorded, states(files)) is None


def test_another_content_is_a_change_also_at_the_same_size_and_time(files):
    recorded = recorded_states(states(files))
    status = files[1].stat()
    files[1].write_text("xyz")
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert files[1].stat().st_mtime_ns == status.st_mtime_ns
    assert first_change(recorded, states(files)) == str(files[1])


def test_more_fewer_and_other_files_are_changes(files, tmp_path):
    a, b = files
    recorded = recorded_states(states(files))
    assert first_change(recorded, states([a])) == str(b)
    assert first_change(recorded, states([b, a])) == str(b)
    (tmp_path / "c").write_text("c")
    assert first_change(recorded, states([a, b, tmp_path / "c"])) == str(tmp_path / "c")
    assert first_change([], []) is None
