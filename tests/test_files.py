from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dmaxlit import DMaxModule, UserError
from dmaxlit.files import remove_unfinished, require_writable, staged, staged_file, writable_path
from tests.conftest import limited_files, make_denoiser


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_there_stays_until_the_new_folder_is_whole(tmp_path):
    folder = tmp_path / "m"
    for text in ("one", "two"):
        with staged(folder, "output") as staging:
            (staging / "file").write_text(text)
            assert names(tmp_path) == sorted([staging.name, *(["m"] if text == "two" else [])])
        assert (folder / "file").read_text() == text
        assert folder.stat().st_mode & 0o777 == 0o755
        assert names(tmp_path) == ["m"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_after_an_error_nothing_has_changed(tmp_path, error):
    (tmp_path / "m").mkdir()

    def write():
        with staged(tmp_path / "m", "output") as staging:
            (staging / "file").write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names(tmp_path) == ["m"]
    assert names(tmp_path / "m") == []


def test_the_old_folder_is_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with staged(tmp_path / "m", "output") as staging:
        (staging / "file").write_text("old")
    rename = Path.rename

    def refuse(path, target):
        if path == new:
            raise OSError("no")
        return rename(path, target)

    def write():
        nonlocal new
        with staged(tmp_path / "m", "output") as staging:
            new = staging
            (staging / "file").write_text("new")

    new = None
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="output: cannot write"):
        write()
    assert names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "file").read_text() == "old"


def test_a_full_disk_is_one_line(tmp_path):
    def write():
        with staged(tmp_path / "m", "dest") as staging:
            save_file({"x": torch.zeros(5000)}, staging / "x.safetensors")

    with limited_files(1000), pytest.raises(UserError, match=r"dest: cannot write .*/m'") as caught:
        write()
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_an_export_that_does_not_fit_leaves_the_last_one(tmp_path):
    module = DMaxModule(make_denoiser())
    module.export(tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    with limited_files(10_000), pytest.raises(UserError, match="output: cannot write"):
        module.export(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    assert names(tmp_path) == ["m"]


def test_a_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="output: cannot write"), staged(tmp_path / "x" / "m", "output"):
        pass


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with staged_file(path) as staging:
            staging.write_text(text)
            assert names(path.parent) == sorted([staging.name, *(["a.txt"] if text == "two" else [])])
        assert path.read_text() == text
        assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_after_an_error_the_old_file_is_alone(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with staged_file(path) as staging:
            staging.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_abandoned_staging_file_is_removed_and_no_other(tmp_path):
    with staged_file(tmp_path / "a.txt") as staging:
        staging.write_text("new")
    staging.write_text("of a process that was killed")
    (tmp_path / "unfinished").write_text("mine")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["a.txt", "unfinished"]


def test_a_link_is_written_through_and_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert writable_path(tmp_path / "link") == tmp_path / "target"
    assert writable_path(tmp_path / "none") == tmp_path / "none"
    with pytest.raises(UserError, match="expected a file to write, got the folder"):
        writable_path(tmp_path)
    with pytest.raises(UserError, match="which is a device or a pipe"):
        writable_path(Path("/dev/null"))


def test_whether_a_file_could_be_written_is_tried_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "a", tmp_path / "new" / "deep" / "a", tmp_path / "file"):
        require_writable(path)
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "deep" / "a", tmp_path / ("a" * 250)):
        with pytest.raises(OSError):  # noqa: PT011
            require_writable(path)
    monkeypatch.chdir(tmp_path)
    require_writable(Path("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
