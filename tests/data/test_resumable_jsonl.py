import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress, manifest_path, whole_manifest
from dmaxlit.errors import UserError
from dmaxlit.files import read_json, write_json

SETTINGS = {"decoder": "threshold", "seed": 0}
ROWS = [{"prompt": "á", "response": f"{i}"} for i in range(4)]


def begun(tmp_path):
    output = tmp_path / "c.jsonl"
    partial = PartialCorpus(output, SETTINGS)
    partial.append(ROWS[:2], Progress(prompts=3, kept=2))
    return output


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_corpus_is_absent_until_it_is_whole(tmp_path):
    output = begun(tmp_path)
    assert not output.exists()
    partial = PartialCorpus(output, SETTINGS)
    partial.append(ROWS[2:], replace(partial.progress, prompts=5))
    assert not output.exists()
    partial.finish()
    assert rows_of(output) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


@pytest.mark.parametrize("torn", [b"", b'{"prompt": "half', b'{"prompt": "whole but not recorded", "response": "r"}\n'])
def test_what_was_not_recorded_is_cut_off(tmp_path, torn):
    output = begun(tmp_path)
    with (tmp_path / "c.jsonl.partial").open("ab") as file:
        file.write(torn)
    partial = PartialCorpus(output, SETTINGS)
    assert (partial.progress.prompts, partial.progress.kept) == (3, 2)
    partial.append(ROWS[2:], replace(partial.progress))
    partial.finish()
    assert rows_of(output) == ROWS


def test_rows_without_a_record_are_discarded(tmp_path):
    output = begun(tmp_path)
    PartialCorpus.record_path(output).unlink()
    partial = PartialCorpus(output, SETTINGS)
    assert partial.progress == Progress()
    partial.append(ROWS[:1], Progress())
    partial.finish()
    assert rows_of(output) == ROWS[:1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "seed": 1}, "c.jsonl: was begun with other settings: seed was 0, now 1"),
        ({"decoder": "threshold"}, "seed was 0, now None"),
        ({**SETTINGS, "keep": "all"}, "keep was None, now 'all'"),
    ],
)
def test_other_settings_are_refused_by_name_or_overwritten(tmp_path, settings, message):
    output = begun(tmp_path)
    with pytest.raises(UserError, match=message):
        PartialCorpus(output, settings)
    assert PartialCorpus(output, SETTINGS).progress.kept == 2
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fresh = PartialCorpus(output, settings, overwrite=True)
    assert fresh.progress == Progress()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before  # until the first rows come
    fresh.append(ROWS[3:], Progress(prompts=1))
    assert rows_of(tmp_path / "c.jsonl.partial") == fresh.rows() == ROWS[3:]


def test_lost_rows_are_noticed(tmp_path):
    output = begun(tmp_path)
    (tmp_path / "c.jsonl.partial").write_bytes(b"{}\n")
    with pytest.raises(UserError, match=r"c.jsonl.partial: is shorter than .*progress.json says"):
        PartialCorpus(output, SETTINGS)


def test_a_damaged_record_is_refused(tmp_path):
    output = begun(tmp_path)
    PartialCorpus.record_path(output).write_text("{")
    with pytest.raises(UserError, match=r"c.jsonl.progress.json: cannot be read"):
        PartialCorpus(output, SETTINGS)


def test_discard_leaves_nothing(tmp_path):
    output = begun(tmp_path)
    PartialCorpus(output, SETTINGS).discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("record", [{"settings": []}, {"settings": None}, {}])
def test_a_record_without_settings_is_refused(tmp_path, record):
    output = begun(tmp_path)
    PartialCorpus.record_path(output).write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"c.jsonl.progress.json: expected settings, got"):
        PartialCorpus(output, SETTINGS)


@pytest.mark.parametrize(
    "counts",
    [
        *(None, [], {"offset": "1"}, {"prompts": -1}, {"prompts": True}, {"more": 1}),
        *({"offset": 1.5}, {"offset": 3.0}, {"prompts": 1.5}, {"seconds": math.inf}, {"dropped": {"x": 0.5}}),
    ],
)
def test_a_record_without_counts_is_refused(tmp_path, counts):
    output = begun(tmp_path)
    write_json(PartialCorpus.record_path(output), {"settings": SETTINGS, "progress": counts})
    with pytest.raises(UserError, match=r"c.jsonl.progress.json: expected (counts|as \w+ a (whole )?number from 0)"):
        PartialCorpus(output, SETTINGS)
    assert PartialCorpus(output, SETTINGS, overwrite=True).progress == Progress()


@pytest.mark.parametrize("failing", ["os.fsync", "dmaxlit.data.resumable_jsonl.write_json"])
@pytest.mark.parametrize("is_begun", [True, False])
def test_a_full_disk_is_refused_and_leaves_what_was_recorded(tmp_path, monkeypatch, failing, is_begun):
    output = begun(tmp_path) if is_begun else tmp_path / "c.jsonl"
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    partial = PartialCorpus(output, SETTINGS, argument="corpus")
    with monkeypatch.context() as patch:
        patch.setattr(failing, full)
        with pytest.raises(UserError, match=r"^corpus: cannot write '.*c.jsonl' \(No space left on device\)$"):
            partial.append(ROWS[2:], replace(partial.progress, prompts=5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    partial.append(ROWS[2:], replace(partial.progress, prompts=5))
    partial.finish()
    assert rows_of(output) == (ROWS if is_begun else ROWS[2:])


class Killed(BaseException):
    """Stands for the end of a process, after which nothing of it runs."""


@pytest.mark.parametrize("when", ["rows are synced", "they are about to be counted", "they are counted"])
@pytest.mark.parametrize("is_begun", [True, False])
def test_rows_appended_again_after_ctrl_c_are_there_once(tmp_path, monkeypatch, when, is_begun):
    output = begun(tmp_path) if is_begun else tmp_path / "c.jsonl"
    partial = PartialCorpus(output, SETTINGS)
    written, expected = partial.rows(), [*ROWS[2:], {"prompt": "longer than those before it", "response": ""}]
    partial._begin()

    def interrupted(*args):
        if when == "they are counted":
            write_json(*args)
        raise KeyboardInterrupt

    failing = "os.fsync" if when == "rows are synced" else "dmaxlit.data.resumable_jsonl.write_json"
    for number in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(failing, interrupted)
            with pytest.raises(KeyboardInterrupt):
                partial.append(expected[:number], replace(partial.progress, prompts=number + 3))
    assert PartialCorpus(output, SETTINGS).rows()[: len(written)] == written  # if the process were killed now
    partial.append(expected, replace(partial.progress, prompts=6))
    assert PartialCorpus(output, SETTINGS).rows() == partial.rows() == [*written, *expected]


@pytest.mark.parametrize("last", ["os.replace", "pathlib.Path.unlink"])
def test_a_manifest_never_vouches_for_the_rows_of_other_settings(tmp_path, monkeypatch, last):
    output, others = begun(tmp_path), {**SETTINGS, "seed": 1}
    PartialCorpus(output, SETTINGS).finish({"settings": SETTINGS})
    new = PartialCorpus(output, others)
    new.append(ROWS, Progress(prompts=4))

    def killed(*args, **options):
        genuine(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        module, _, name = last.rpartition(".")
        genuine = getattr({"os": os, "pathlib.Path": Path}[module], name)
        patch.setattr(last, killed)
        with pytest.raises(Killed):
            new.finish({"settings": others})
    with pytest.raises(UserError, match=r"c.jsonl: exists and has no manifest; choose another name, or overwrite"):
        whole_manifest(output, SETTINGS)
    resumed = PartialCorpus(output, others, overwrite=True)
    assert resumed.rows() == ROWS
    resumed.finish({"settings": others})
    assert rows_of(output) == ROWS
    assert whole_manifest(output, others) == {"settings": others}


@pytest.mark.parametrize("has_name", [False, True])
def test_damaged_rows_are_refused(tmp_path, has_name):
    output = begun(tmp_path)
    rows = output if has_name else tmp_path / "c.jsonl.partial"
    content = (tmp_path / "c.jsonl.partial").rename(rows).read_bytes()
    rows.write_bytes(content[:-9] + bytes(9))
    with pytest.raises(UserError, match=rf"{rows.name}: is damaged at byte \d+; delete it and .*progress.json$"):
        PartialCorpus(output, SETTINGS).rows()


def test_what_cannot_be_written_is_refused_at_once_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file/c.jsonl", "file/deep/c.jsonl", "n" * 240, "n" * 300, "."):
        with pytest.raises(UserError, match=r"output: (cannot write|expected a file to write)"):
            PartialCorpus(tmp_path / name, SETTINGS)
    PartialCorpus(tmp_path / "new" / "folder" / "c.jsonl", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_whole_file_is_recognised_by_its_manifest(tmp_path):
    output = begun(tmp_path)
    assert whole_manifest(output, SETTINGS) is None
    PartialCorpus(output, SETTINGS).finish({"settings": SETTINGS, "counts": 3})
    assert whole_manifest(output, SETTINGS) == {"settings": SETTINGS, "counts": 3}
    with pytest.raises(UserError, match=r"c.jsonl: was made with other settings: seed was 0, now 1; choose"):
        whole_manifest(output, {**SETTINGS, "seed": 1})
    manifest_path(output).unlink()
    with pytest.raises(UserError, match=r"c.jsonl: exists and has no manifest; choose another name, or overwrite"):
        whole_manifest(output, SETTINGS)


def test_settings_are_compared_as_json(tmp_path):
    output = tmp_path / "c.jsonl"
    PartialCorpus(output, {"a": (1, 2)}).append(ROWS, Progress())
    assert PartialCorpus(output, {"a": [1, 2]}).progress.offset > 0


def test_json_files_hold_the_old_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a.json: "):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["c.jsonl.partial", "c.jsonl.progress.json", "c.jsonl.manifest.json"])
def test_links_under_names_that_are_written_are_not_followed(tmp_path, name):
    (tmp_path / "victim").write_text('{"settings": {"decoder": "threshold", "seed": 0}, "progress": {}}')
    before = (tmp_path / "victim").read_bytes()
    (tmp_path / name).symlink_to(tmp_path / "victim")
    if name.endswith("partial"):
        with pytest.raises(UserError, match=r"output: cannot write .* \(c.jsonl.partial is a link, or no file\)"):
            begun(tmp_path)
    else:
        begun(tmp_path)
        PartialCorpus(tmp_path / "c.jsonl", SETTINGS).finish({"settings": SETTINGS})
    assert (tmp_path / "victim").read_bytes() == before


def test_a_link_made_while_rows_are_written_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    partial = PartialCorpus(tmp_path / "c.jsonl", SETTINGS)
    (tmp_path / "c.jsonl.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is a link, or no file"):
        partial.append(ROWS[:1], Progress(prompts=1))
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_killed_processes_left_of_a_file_is_gone_once_it_is_whole(tmp_path):
    output = begun(tmp_path)
    (tmp_path / ".c.jsonl.progress.json.0123456789abcdef.unfinished").write_text("{")
    PartialCorpus(output, SETTINGS).finish({"settings": SETTINGS})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "c.jsonl.manifest.json"]
