import json

import pytest

from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.run_folder import claim_folder, record_environment

SETTINGS = {"seed": 0, "tasks": {"chain": {"num_prompts": 4, "options": {"seed": 1}}}, "stop": []}


def environment(**other):
    device = {"type": "cpu", "name": "x86", "processes": 1}
    return {
        "software": {"revision": "a"},
        "attention": "sdpa",
        "compile": False,
        "device": device,
        "batch_size": 8,
        **other,
    }


def test_the_same_run_may_come_again(tmp_path):
    for _ in range(2):
        claim_folder(tmp_path, SETTINGS)
    assert json.loads((tmp_path / "settings.json").read_text()) == SETTINGS


def test_another_run_is_refused_by_the_first_setting_that_differs(tmp_path):
    claim_folder(tmp_path, SETTINGS)
    other = {**SETTINGS, "tasks": {"chain": {"num_prompts": 5, "options": {"seed": 2}}}}
    record_environment(tmp_path, environment())
    with pytest.raises(UserError, match=r"other settings: tasks.chain.num_prompts was 4, now 5; choose another folder"):
        claim_folder(tmp_path, other)
    assert json.loads((tmp_path / "settings.json").read_text()) == {**SETTINGS, "environments": [environment()]}


@pytest.mark.parametrize(
    ("other", "change"),
    [
        ({"software": {"revision": "b"}}, r"software.revision was 'a', now 'b'"),
        ({"attention": "eager"}, r"attention was 'sdpa', now 'eager'"),
        ({"compile": True}, r"compile was False, now True"),
        ({"date": "2026-11-28"}, r"date was None, now '2026-11-28'"),
        ({"device": {"type": "cuda", "name": "GPU", "processes": 1}}, r"device.type was 'cpu', now 'cuda'"),
    ],
)
def test_a_run_that_another_environment_resumes_says_so_and_records_both(tmp_path, other, change):
    claim_folder(tmp_path, SETTINGS)
    assert record_environment(tmp_path, environment()) == [environment()]
    claim_folder(tmp_path, SETTINGS)
    with pytest.warns(DMaxWarning, match=rf"output: .* keeps answers of another environment: {change}"):
        record_environment(tmp_path, environment(**other))
    claim_folder(tmp_path, SETTINGS)
    assert record_environment(tmp_path, environment()) == [environment(), environment(**other)]


def test_more_devices_and_another_batch_are_recorded_without_a_warning(tmp_path):
    claim_folder(tmp_path, SETTINGS)
    others = [{}, {"device": {"type": "cpu", "name": "x86", "processes": 4}}, {"batch_size": 9}]
    for number, other in enumerate(others, start=1):
        assert len(record_environment(tmp_path, environment(**other))) == number


def test_a_complete_run_is_answered_by_no_other_environment(tmp_path):
    claim_folder(tmp_path, SETTINGS)
    record_environment(tmp_path, environment())
    (tmp_path / "record.json").write_text("{}")
    assert record_environment(tmp_path, environment(attention="eager")) == [environment()]
    claim_folder(tmp_path, SETTINGS, overwrite=True)
    assert record_environment(tmp_path, environment(attention="eager")) == [environment(attention="eager")]


def test_overwriting_removes_what_the_other_run_wrote_and_nothing_else(tmp_path):
    claim_folder(tmp_path, SETTINGS)
    (tmp_path / "chain").mkdir()
    for name in ("record.json", "table.md", "chain/spd.jsonl", "notes.txt"):
        (tmp_path / name).write_text("x")
    claim_folder(tmp_path, {**SETTINGS, "seed": 1}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "settings.json"]


def test_overwriting_resumes_the_same_run_until_it_is_complete(tmp_path):
    claim_folder(tmp_path, SETTINGS)
    (tmp_path / "chain").mkdir()
    claim_folder(tmp_path, SETTINGS, overwrite=True)
    assert (tmp_path / "chain").is_dir()
    (tmp_path / "record.json").write_text("{}")
    claim_folder(tmp_path, SETTINGS, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_a_manipulated_folder_cannot_have_others_removed(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text(json.dumps({"tasks": {"../other": {}}}))
    with pytest.raises(UserError, match="expected a label"):
        claim_folder(tmp_path / "run", SETTINGS, overwrite=True)
    assert (tmp_path / "other").is_dir()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"output: expected a new folder, .* which holds 'thesis.tex'"):
            claim_folder(tmp_path, SETTINGS, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
