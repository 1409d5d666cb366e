import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone.formats.weight_files import _indexed
from dmaxlit.checkpoints.part_checksums import wrong_checksum
from dmaxlit.data.json_lines import rows_with_offsets
from dmaxlit.files import (
    open_to_append,
    read_json,
    remove_unfinished,
    require_other_files,
    require_replaceable,
    require_writable,
    staged,
    staged_file,
    writable_path,
)
from tests.conftest import limited_files, make_denoiser
from tests.lock_holder import held_by_another


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask():
    """Return a function that sets the umask, which the test leaves as it was."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_what_is_there_stays_until_the_new_folder_is_whole(tmp_path, umask):
    umask(0o022)
    folder = tmp_path / "m"
    for text in ("one", "two"):
        with staged(folder, "output") as staging:
            (staging / "file").write_text(text)
            assert names(tmp_path) == sorted([".m.lock", staging.name, *(["m"] if text == "two" else [])])
        assert (folder / "file").read_text() == text
        assert folder.stat().st_mode & 0o777 == 0o755
        assert names(tmp_path) == ["m"]


@pytest.mark.parametrize("has_links", [True, False])
def test_what_is_not_to_be_replaced_stays_as_it_is(tmp_path, monkeypatch, has_links):
    folder = tmp_path / "m"
    (folder / ".git" / "refs").mkdir(parents=True)
    for name in ("both", "old-1", ".git/object", "mine"):
        (folder / name).write_text("old")
    (folder / "parts").mkdir()
    (folder / ".git" / "object").chmod(0o444)
    (folder / ".git" / "link").symlink_to("nowhere")
    (folder / "link").symlink_to("mine")
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *args, **options: (folder / "missing").rmdir())
    with staged(folder, "output", ("old-*", "parts")) as staging:
        (staging / "both").write_text("new")
    assert names(tmp_path) == ["m"]
    assert names(folder) == [".git", "both", "link", "mine"]
    assert names(folder / ".git") == ["link", "object", "refs"]
    assert [(folder / name).read_text() for name in ("both", "link", ".git/object")] == ["new", "old", "old"]
    assert (folder / ".git" / "object").stat().st_mode & 0o777 == 0o444
    assert os.readlink(folder / ".git" / "link") == "nowhere"
    assert (folder / "link").is_symlink()


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


def test_the_current_folder_and_those_that_hold_it_are_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    for name in (".", "..", "/", "b/..", "../a", str(tmp_path)):
        refusal = f"output: expected a folder that can be replaced, got {re.escape(repr(name))}, which is the current"
        with pytest.raises(UserError, match=refusal), staged(Path(name), "output"):
            pass
    for name in ("b", "../c", "c"):
        require_replaceable(Path(name), "output")
    assert names(tmp_path) == ["a"]


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
    with pytest.raises(UserError, match=r"expected a file to write, got the pattern '.*/\*\.jsonl'"):
        writable_path(tmp_path / "*.jsonl")


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


def modes(folder):
    return {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}


def test_the_umask_is_obeyed(tmp_path, umask):
    umask(0o077)
    with staged(tmp_path / "m", "output") as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "text").write_text("x")
        save_file({"x": torch.zeros(1)}, staging / "weights")
    assert modes(tmp_path / "m") == {"m": 0o700, "sub": 0o700, "text": 0o600, "weights": 0o600}
    with staged_file(tmp_path / "f") as staging:
        save_file({"x": torch.zeros(1)}, staging)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_with_a_usual_umask_others_may_read(tmp_path, umask):
    umask(0o022)
    with staged(tmp_path / "m", "output") as staging:
        save_file({"x": torch.zeros(1)}, staging / "weights")
    with staged_file(tmp_path / "f") as staging:
        save_file({"x": torch.zeros(1)}, staging)
    assert modes(tmp_path / "m") == {"m": 0o755, "weights": 0o644}
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_names_of_what_is_unfinished_cannot_be_guessed_and_are_taken_by_nobody_else(tmp_path, monkeypatch):
    seen = []
    for _ in range(2):
        with staged_file(tmp_path / "a") as file, staged(tmp_path / "m", "output") as folder:
            file.write_text("")
            seen += [file.name, folder.name]
    assert len(set(seen)) == 4
    for name in seen:
        assert re.fullmatch(r"\.[am]\.[0-9a-f]{16}\.unfinished", name)
    (tmp_path / "victim").write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)  # had it been guessed
    for name in "am":
        (tmp_path / f".{name}.{'0' * 16}.unfinished").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError), staged_file(tmp_path / "a"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_link_in_an_exported_folder_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("")
    (tmp_path / "victim").chmod(0o600)
    with staged(tmp_path / "m", "output") as staging:
        (staging / "link").symlink_to(tmp_path / "victim")
    assert (tmp_path / "victim").stat().st_mode & 0o777 == 0o600


def left(folder, suffix):
    """Write what a process killed in ``staged`` leaves of the folder ``m``."""
    path = folder / f".m.0123456789abcdef.{suffix}"
    path.mkdir()
    (path / "file").write_text(suffix)


def test_what_killed_processes_left_of_a_folder_is_removed(tmp_path):
    for name in (".m.unfinished", ".mm.0123456789abcdef.unfinished"):
        (tmp_path / name).mkdir()
    left(tmp_path, "unfinished")
    (tmp_path / "m").mkdir()
    left(tmp_path, "old")
    with staged(tmp_path / "m", "output") as staging:
        (staging / "file").write_text("new")
    assert names(tmp_path) == [".m.unfinished", ".mm.0123456789abcdef.unfinished", "m"]
    assert (tmp_path / "m" / "file").read_text() == "new"


def test_the_old_folder_of_a_process_killed_between_the_renames_is_back_if_the_next_one_fails(tmp_path):
    left(tmp_path, "unfinished")
    left(tmp_path, "old")

    def fail():
        with staged(tmp_path / "m", "output"):
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert names(tmp_path) == ["m"]
    assert (tmp_path / "m" / "file").read_text() == "old"


def test_what_another_process_is_writing_is_left_to_it(tmp_path):
    left(tmp_path, "unfinished")
    with (
        held_by_another(tmp_path / "m"),
        pytest.raises(UserError, match=r"output: .* is being written by process"),
        staged(tmp_path / "m", "output"),
    ):
        pass
    assert ".m.0123456789abcdef.unfinished" in names(tmp_path)


def test_only_unfinished_files_of_that_name_are_removed(tmp_path):
    mine = [".o.jsonl.0a.unfinished", ".o.jsonl.progress.json.0b.unfinished"]
    others = [".o.jsonl2.0c.unfinished", ".p.0d.unfinished", ".o.jsonl.unfinished", "o.jsonl.0e.unfinished"]
    for name in mine + others:
        (tmp_path / name).write_text("")
    (tmp_path / ".o.jsonl.0f.unfinished").mkdir()
    remove_unfinished(tmp_path, "o.jsonl")
    assert names(tmp_path) == sorted([*others, ".o.jsonl.0f.unfinished"])


def test_a_file_is_appended_to_under_its_own_name_only(tmp_path):
    for text in (b"one", b"two"):
        with open_to_append(tmp_path / "a") as file:
            file.write(text)
    assert (tmp_path / "a").read_bytes() == b"onetwo"
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "pipe"):
        with pytest.raises(OSError, match=f"{name} is a link, or no file"):
            open_to_append(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == b"onetwo"
    assert not (tmp_path / "none").exists()


def test_a_file_that_another_argument_names_is_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("prompts")
    (tmp_path / "loop").symlink_to("loop")
    for path in ("prompts", "./prompts", "link", tmp_path / "prompts"):
        with pytest.raises(UserError, match="output: expected another file than --prompts, got"):
            require_other_files({"csv": None, "output": path}, {"--prompts": [None, "prompts"]})
    with pytest.raises(UserError, match=r"json: expected another file than --csv, got '\./o'"):
        require_other_files({"csv": "o", "json": "./o"}, {})
    inputs = {"--prompts": ["prompts", None], "--model": ["m", "m", "loop", "no\0file", "long" * 2000]}
    require_other_files({"csv": "a", "json": "b", "plot": None}, inputs)


@pytest.mark.parametrize("folder", ["dmaxlit", "callbacks", ".ci"])
def test_no_text_is_read_in_the_encoding_of_the_user(folder):
    paths = list((Path(__file__).parents[1] / folder).rglob("*.py"))
    assert paths
    assert [path for path in paths if ".read_text()" in path.read_text(encoding="utf-8")] == []


def test_json_that_is_nested_as_deep_as_no_stack_is_refused_as_damaged(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text('{"a":' * 200_000)
    for read in (read_json, _indexed, lambda path: list(rows_with_offsets(path))):
        with pytest.raises(UserError, match=r"deep\.json"):
            read(path)
    path.rename(tmp_path / "checksums.json")
    with pytest.raises(ValueError, match=r"checksums\.json"):
        wrong_checksum(tmp_path)
