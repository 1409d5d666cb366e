import os
from pathlib import Path

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.checkpoints.atomic_io import AtomicCheckpointIO, damage
from dmaxlit.files import remove_unfinished
from tests.conftest import limited_files

OLD, NEW = {"weights": torch.zeros(1000)}, {"weights": torch.arange(100_000.0), "told": {"step": 3}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    return path


def read(path):
    return torch.load(path, weights_only=True)


def assert_still_old(path):
    assert torch.equal(read(path)["weights"], OLD["weights"])
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_is_written_is_read(path):
    io = AtomicCheckpointIO()
    io.save_checkpoint(NEW, path)
    assert torch.equal(read(path)["weights"], NEW["weights"])
    assert io.load_checkpoint(path)["told"] == {"step": 3}
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_bytes_reach_the_disk_before_the_name(path, monkeypatch):
    happened = []
    synced, replaced = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: happened.append(os.fstat(handle).st_size) or synced(handle))
    monkeypatch.setattr(Path, "replace", lambda self, to: happened.append("renamed") or replaced(self, to))
    AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert happened[0] == path.stat().st_size
    assert happened[1] == "renamed"
    assert len(happened) == 3  # and then the folder


def test_a_full_disk_is_told_in_one_line_and_leaves_the_last_one(path, monkeypatch):
    class Full:
        """A file on a device that is full after some bytes."""

        def __init__(self, file):
            self.file, self.room = file, 50_000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args: Full(opened(self, *args)))
    with pytest.raises(UserError, match=r"last.ckpt' \(No space left on device\)") as refusal:
        AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert "\n" not in str(refusal.value)
    monkeypatch.undo()
    assert_still_old(path)


def test_what_could_not_be_read_again_is_refused_and_leaves_the_last_one(path):
    with pytest.raises(UserError, match=r"^checkpoint: expected plain data .*last.ckpt', .*, got pathlib.*Path; "):
        AtomicCheckpointIO().save_checkpoint({**NEW, "callbacks": {"Own": {"folder": path}}}, path)
    assert_still_old(path)


def test_a_file_that_may_not_grow_leaves_the_last_one(path):
    with limited_files(100_000), pytest.raises(UserError, match=r"cannot write .*last.ckpt' \(File too large\)"):
        AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert_still_old(path)


def test_what_a_killed_process_left_is_removed(path):
    (path.parent / ".last.ckpt.77.unfinished").write_bytes(b"beg")
    remove_unfinished(path.parent)
    assert_still_old(path)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_changed_byte_is_found(path, where):
    AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert damage(path) is None
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    assert "checksum" in damage(path)
    with pytest.raises(UserError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_truncated_file_is_found(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="cannot be read, it may be truncated"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_a_file_that_was_verified_is_not_verified_again_unless_it_has_changed(path, monkeypatch):
    reader = AtomicCheckpointIO()
    reader.save_checkpoint(NEW, path)
    reader.set_verified(path)
    with monkeypatch.context() as patch:
        patch.setattr("dmaxlit.checkpoints.atomic_io.damage", lambda path: pytest.fail("verified again"))
        reader.load_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        reader.load_checkpoint(path)


def test_what_is_read_stays_in_the_file_and_may_be_changed_without_changing_it(path):
    AtomicCheckpointIO().save_checkpoint(NEW, path)
    stored = path.read_bytes()
    weights = AtomicCheckpointIO().load_checkpoint(path)["weights"]
    assert str(path) in Path("/proc/self/maps").read_text()
    weights.add_(1)
    assert path.read_bytes() == stored
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    assert torch.equal(weights, NEW["weights"] + 1)
