"""Answers judged again: what an evaluation with the other options would have written, without a model."""

import json
import shutil
from pathlib import Path

import pytest
from lightning.fabric import Fabric

from dmaxlit import DMaxModule
from dmaxlit.errors import UserError
from dmaxlit.evaluation.regrade import GradedRun, regrade
from dmaxlit.evaluation.software import software
from dmaxlit.ranks import Ranks
from tests.conftest import make_denoiser
from tests.evaluation.suites import SPD, contents, rows, suite

pytestmark = pytest.mark.usefixtures("undrawn")

QUESTIONS = [{"question": f"{a} +{b} ?", "answer": f"#### {a + b}"} for a in range(3) for b in range(2)]
LENIENT = {"gsm8k": {"lenient": True}}


@pytest.fixture(scope="module")
def module():
    return DMaxModule(make_denoiser(sharpen=6.0))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def evaluate(module, data, output, **options):
    settings = suite(["gsm8k"], {"gsm8k": {"path": str(data), **options}}, SPD[:1])
    settings.run(
        Ranks(Fabric(accelerator="cpu", devices=1)), lambda: module, "builtin:chain-base", output, progress=False
    )


@pytest.fixture(scope="module")
def answers(module, data, tmp_path_factory):
    """Return the folder of an evaluation of gsm8k, graded strictly."""
    folder = tmp_path_factory.mktemp("runs") / "strict"
    evaluate(module, data, folder)
    return folder


def test_the_result_is_that_of_an_evaluation_with_these_options(module, data, answers, tmp_path):
    before = contents(answers)
    table = regrade(answers, tmp_path / "regraded", LENIENT, progress=False)
    evaluate(module, data, tmp_path / "evaluated", lenient=True)
    assert (tmp_path / "regraded" / "table.md").read_text(encoding="utf-8") == table
    regraded, evaluated = contents(tmp_path / "regraded"), contents(tmp_path / "evaluated")
    record = regraded["record.json"]
    assert record.pop("regraded")["answers"] == str(answers)
    assert regraded == evaluated
    assert record["tasks"]["gsm8k"]["grading"] == "lenient"
    assert contents(answers) == before


def test_other_verdicts_change_the_figures_and_nothing_else(answers, tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.tasks.grading.LenientNumberGrader.__call__", lambda self, text: True)
    regrade(answers, tmp_path / "out", LENIENT, progress=False)
    file = "gsm8k/one_token.jsonl"
    for old, new in zip(rows(answers / file), rows(tmp_path / "out" / file), strict=True):
        assert new["correct"]
        assert {**new, "correct": 0, "extracted": 0} == {**old, "correct": 0, "extracted": 0}
    old, new = (
        json.loads((folder / "record.json").read_text())["results"][0] for folder in (answers, tmp_path / "out")
    )
    assert new["accuracy"] == 1.0 > old["accuracy"]
    assert new["timing"] == old["timing"]


def test_an_interrupted_regrading_goes_on_and_a_complete_one_prints_its_table(answers, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(
            "dmaxlit.evaluation.regrade.write_run_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            regrade(answers, output, {}, progress=False)
    assert not (output / "record.json").exists()
    table = regrade(answers, output, {}, progress=False)
    monkeypatch.setattr("dmaxlit.evaluation.regrade.write_run_report", lambda *_: pytest.fail("it is complete"))
    assert regrade(answers, output, {}, progress=False) == table


def test_complete_verdicts_of_other_software_or_answers_are_not_shown_as_new_ones(answers, tmp_path, monkeypatch):
    output, other = tmp_path / "out", tmp_path / "other"
    table = regrade(answers, output, {}, progress=False)
    shutil.copytree(answers, other)
    path = other / "gsm8k/one_token.jsonl"
    path.write_text(path.read_text().replace('"finished": true', '"finished":  true'))
    with monkeypatch.context() as patch:
        patch.setattr("dmaxlit.evaluation.regrade.software", lambda: {**software(), "revision": "mended"})
        with pytest.raises(UserError, match=r"output: expected a new .* software: software.revision was .*'mended'$"):
            regrade(answers, output, {}, progress=False)
    with pytest.raises(UserError, match="of other answers or software: answers was "):
        regrade(other, output, {}, progress=False)
    assert regrade(answers, output, {}, progress=False) == table
    regrade(other, output, {}, overwrite=True, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gsm8k": {"template": "zero_shot"}}, "regrade: expected options of 'gsm8k' that leave its prompts as"),
        (
            {"gsm8k": {"template": ["dmax", "zero_shot"]}},
            "task.gsm8k.template: expected one, as answered, got a list with 'dmax'",
        ),
        ({"gsm8k": {"template": ["dmax"]}}, "task.gsm8k.template: expected one, as answered, got a list with 'dmax'"),
        ({"gsm8k": {"lenience": 1}}, "task 'gsm8k': unknown option lenience"),
        ({"gsm8k": {"path": "gone.jsonl"}}, "path: no such file: 'gone.jsonl'"),
        ({"math500": {}}, "task.math500: expected options of one of the tasks gsm8k"),
    ],
)
def test_options_that_cannot_be_used_are_refused(answers, tmp_path, options, message):
    with pytest.raises(UserError) as error:
        regrade(answers, tmp_path / "out", options, progress=False)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_options_that_leave_too_few_prompts_name_no_argument_of_the_task():
    task = {"name": "chain", "options": {"operations": 5}, "num_prompts": 5000, "prompts": ""}
    run = GradedRun(Path("run"), {"settings": {"split": "test", "tasks": {"chain": task}}})
    (entry,) = run.entries({"chain": {"operations": 3}})
    with pytest.raises(UserError, match=r"^regrade: expected at most \d+ test prompts of 3 operations, got 5000$"):
        run.examples(entry)


def test_other_folders_are_refused(answers, tmp_path):
    with pytest.raises(UserError, match="output: expected another folder than that of the answers"):
        regrade(answers, answers / ".." / answers.name, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output: expected a folder to write"):
        regrade(answers, tmp_path / "file", {})
    with pytest.raises(
        UserError, match=r"regrade: expected the folder of a complete evaluation, got .*, without record"
    ):
        regrade(tmp_path, tmp_path / "out", {})
    (tmp_path / "record.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="regrade: expected a record of format dmaxlit-evaluation-1, got 'other'"):
        regrade(tmp_path, tmp_path / "out", {})
    (tmp_path / "record.json").write_text('{"format": "dmaxlit-evaluation-1", "settings": {}}')
    with pytest.raises(UserError, match=r"regrade: expected the record of an evaluation in .*'split' is missing"):
        regrade(tmp_path, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, "", "{}\n", '{"index": 0}\n', "no JSON\n", "3\n"])
def test_damaged_answers_are_refused(answers, tmp_path, content):
    folder = shutil.copytree(answers, tmp_path / "copy")
    path = folder / "gsm8k" / "one_token.jsonl"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"^regrade: (cannot read|expected 5 answers in order in) '.*one_token.jsonl'"):
        regrade(folder, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def changed(answers, folder, change):
    """Return a copy of a run, with something in its record changed."""
    shutil.copytree(answers, folder)
    record = json.loads((folder / "record.json").read_text())
    change(record)
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_a_record_imports_nothing_unless_the_user_names_it(answers, tmp_path, monkeypatch):
    def name(record):
        record["settings"]["tasks"]["gsm8k"]["name"] = "dmaxlit.tasks.gsm8k.Gsm8kTask"

    run = changed(answers, tmp_path / "run", name)
    message = (
        "regrade: expected a registered task, or --tasks with its import path, got 'dmaxlit.tasks.gsm8k.Gsm8kTask'"
    )
    with pytest.raises(UserError, match=message):
        regrade(run, tmp_path / "out", {})
    regrade(run, tmp_path / "out", {}, ["dmaxlit.tasks.gsm8k.Gsm8kTask"], progress=False)


def test_a_record_does_not_choose_the_sandbox(answers):
    record = json.loads((answers / "record.json").read_text())
    task = {"name": "humaneval", "options": {"path": "x.jsonl", "sandbox": "rlimits", "seconds": 2.0}}
    run = GradedRun(answers, {"settings": {"tasks": {"humaneval": {**record["settings"]["tasks"]["gsm8k"], **task}}}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmaxlit.sandbox.isolation.reason_against", lambda level: None)
        (entry,) = run.entries({})
        assert (entry.task.sandbox, entry.task.seconds) == ("auto", 2.0)
        (entry,) = run.entries({"humaneval": {"sandbox": "namespaces"}})
        assert entry.task.sandbox == "namespaces"


def test_a_record_does_not_write_elsewhere(answers, tmp_path):
    def move(record):
        record["results"][0]["samples"] = "../../one_token.jsonl"

    run = changed(answers, tmp_path / "run", move)
    with pytest.raises(UserError, match=r"regrade: expected the record of .*answers in '../../one_token.jsonl'"):
        regrade(run, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
