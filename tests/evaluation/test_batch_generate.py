import datetime
import json
import os
from dataclasses import replace

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.data.shared_corpus import SharedCorpus
from dmaxlit.engine import DecodeSettings
from dmaxlit.errors import PromptError
from dmaxlit.evaluation.batch_generate import generate_to_file
from dmaxlit.tasks import task as task_by_name
from tests.lock_holder import held_by_another


@pytest.fixture(scope="module")
def module():
    return dmaxlit.load("builtin:chain-base")


@pytest.fixture(scope="module")
def examples(module):
    return module.task().examples("test", 11)


SETTINGS = DecodeSettings("threshold", {"threshold": 0.0}, 96, batch_size=1, temperature=0.7)


class Interrupted(BaseException):
    pass


def stop(*args, **kwargs):
    raise Interrupted


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_interrupted_file_is_resumed_whatever_the_batch(module, examples, tmp_path, monkeypatch):
    whole = tmp_path / "whole.jsonl"
    done = generate_to_file(module, examples, whole, SETTINGS, progress=False)
    rows = rows_of(whole)
    assert [row["index"] for row in rows] == list(range(11))
    assert [row["prompt"] for row in rows] == [example.prompt for example in examples]
    assert [row["correct"] for row in rows] == [e.check(r["response"]) for e, r in zip(examples, rows, strict=True)]
    assert (done.prompts, done.tokens) == (11, sum(row["num_tokens"] for row in rows))

    calls, genuine = [], module.generate_batch

    def interrupted(*args, **kwargs):
        def take(index, response):
            calls.append(index)
            if len(calls) == 5:
                raise Interrupted
            kwargs["on_response"](index, response)

        return genuine(*args, **{**kwargs, "on_response": take})

    path = tmp_path / "part.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(module, "generate_batch", interrupted)
        with pytest.raises(Interrupted):
            generate_to_file(module, examples, path, SETTINGS, progress=False)
    assert not path.exists()
    with (tmp_path / "part.jsonl.partial").open("a") as file:
        file.write('{"half a row')
    bigger = DecodeSettings(**{**vars(SETTINGS), "batch_size": 2})
    generate_to_file(module, examples, path, bigger, progress=False)
    assert path.read_bytes() == whole.read_bytes()
    names = ["part.jsonl", "part.jsonl.manifest.json", "whole.jsonl", "whole.jsonl.manifest.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_other_settings_are_refused_unless_it_starts_over(module, examples, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(SharedCorpus, "finish", stop)
        with pytest.raises(Interrupted):
            generate_to_file(module, examples[:2], path, SETTINGS, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(module.tokenizer, "chat_template", "{{ messages[0].content }}")
        with pytest.raises(UserError, match=r"was begun with other settings: chat_template was None, now "):
            generate_to_file(module, examples[:2], path, SETTINGS, progress=False)
    other = DecodeSettings("threshold", {"threshold": 0.0}, 96)
    with pytest.raises(UserError, match=r"was begun with other settings: temperature was 0.7, now 0.0"):
        generate_to_file(module, examples[:2], path, other, progress=False)
    generate_to_file(module, examples[:2], path, other, progress=False, overwrite=True)
    assert len(rows_of(path)) == 2


def test_what_cannot_be_done_is_refused(module, tmp_path):
    with pytest.raises(UserError, match="prompts: expected at least one, got none"):
        generate_to_file(module, [], tmp_path / "a", SETTINGS)
    with pytest.raises(UserError, match="batch_size: expected at least 1, got 0"):
        generate_to_file(module, ["3 ?"], tmp_path / "a", DecodeSettings(batch_size=0))
    with pytest.raises(UserError, match="output: expected a file to write, got the folder"):
        generate_to_file(module, ["3 ?"], tmp_path, SETTINGS)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output: cannot write"):
        generate_to_file(module, ["3 ?"], tmp_path / "file" / "below", SETTINGS, progress=False)


def test_an_existing_file_is_replaced_only_on_request(module, tmp_path):
    path, target = tmp_path / "answers.jsonl", tmp_path / "target.jsonl"
    path.symlink_to(target)
    generate_to_file(module, ["3 ?"], path, SETTINGS, progress=False)
    assert path.is_symlink()
    before = target.read_text()
    with pytest.raises(UserError, match=r"was made with other settings: prompts was '.*; choose"):
        generate_to_file(module, ["4 ?"], path, SETTINGS, progress=False)
    assert target.read_text() == before
    generate_to_file(module, ["4 ?"], path, SETTINGS, progress=False, overwrite=True)
    assert path.is_symlink()
    assert target.read_text() != before


def test_what_is_no_file_is_left_alone(module, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"expected a file to write, got .*pipe', which is a device"):
            generate_to_file(module, ["3 ?"], tmp_path / "pipe", SETTINGS, progress=False, overwrite=overwrite)
    assert (tmp_path / "pipe").is_fifo()


def test_the_same_call_again_changes_nothing(module, examples, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    first = generate_to_file(module, examples[:3], path, SETTINGS, progress=False)
    before = {name.name: name.read_bytes() for name in tmp_path.iterdir()}
    monkeypatch.setattr(module, "generate_batch", lambda *_, **__: pytest.fail("it decoded again"))
    assert generate_to_file(module, examples[:3], path, SETTINGS, progress=False) == first
    assert {name.name: name.read_bytes() for name in tmp_path.iterdir()} == before
    other = DecodeSettings(**{**vars(SETTINGS), "seed": 1})
    with pytest.raises(UserError, match=r"a.jsonl: was made with other settings: seed was 0, now 1"):
        generate_to_file(module, examples[:3], path, other, progress=False)
    (tmp_path / "mine.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"mine.jsonl: exists and has no manifest; choose another name"):
        generate_to_file(module, examples[:3], tmp_path / "mine.jsonl", SETTINGS, progress=False)
    assert (tmp_path / "mine.jsonl").read_text() == "mine"


def test_killed_after_the_file_has_its_name_the_next_call_does_the_rest(module, examples, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"

    def killed(*_):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("dmaxlit.data.resumable_jsonl.sync", killed)
        with pytest.raises(Interrupted):
            generate_to_file(module, examples[:2], path, SETTINGS, progress=False)
    assert sorted(name.name for name in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.progress.json"]
    before = path.read_bytes()
    monkeypatch.setattr(module, "generate_batch", lambda *_, **__: pytest.fail("it decoded again"))
    assert generate_to_file(module, examples[:2], path, SETTINGS, progress=False).prompts == 2
    assert path.read_bytes() == before
    assert sorted(name.name for name in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.manifest.json"]


def test_two_processes_do_not_write_one_file(module, tmp_path):
    path = tmp_path / "out.jsonl"
    with held_by_another(path) as other:
        with pytest.raises(UserError, match=f"output: .* is being written by process {other.pid} on"):
            generate_to_file(module, ["7 +1 ?"], path, SETTINGS, progress=False)
        assert [path.name for path in tmp_path.iterdir()] == [".out.jsonl.lock"]


EXTRAS = [{"id": 7, "response": "4"}, {"id": 8, "seen": datetime.date(2026, 1, 2)}]


def test_the_columns_that_came_with_a_prompt_are_kept(module, examples, tmp_path):
    path = tmp_path / "a.jsonl"
    generate_to_file(module, ["3 ?", "4 ?"], path, SETTINGS, progress=False)
    bare = rows_of(path)
    assert "columns" not in json.loads((tmp_path / "a.jsonl.manifest.json").read_text())["settings"]
    generate_to_file(module, ["3 ?", "4 ?"], path, SETTINGS, progress=False, overwrite=True, extras=EXTRAS)
    kept = [{"id": 7, "prompt_response": "4"}, {"id": 8, "seen": "2026-01-02"}]
    assert rows_of(path) == [{**row, **columns} for row, columns in zip(bare, kept, strict=True)]
    theirs = [replace(example, extra=extra) for example, extra in zip(examples, EXTRAS, strict=False)]
    generate_to_file(module, theirs, tmp_path / "b.jsonl", SETTINGS, progress=False)
    assert [row["id"] for row in rows_of(tmp_path / "b.jsonl")] == [7, 8]


def test_other_columns_are_another_file(module, tmp_path, monkeypatch):
    """Else the rows of one file would be of two sources."""
    path = tmp_path / "a.jsonl"
    genuine = module.generate_batch

    def interrupted(*args, **kwargs):
        genuine(*args, **kwargs)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(module, "generate_batch", interrupted)
        with pytest.raises(Interrupted):
            generate_to_file(module, ["3 ?", "4 ?"], path, SETTINGS, progress=False, extras=EXTRAS)
    for extras in ([EXTRAS[0], {**EXTRAS[1], "id": 9}], ()):
        with pytest.raises(UserError, match="was begun with other settings: columns was"):
            generate_to_file(module, ["3 ?", "4 ?"], path, SETTINGS, progress=False, extras=extras)
    assert generate_to_file(module, ["3 ?", "4 ?"], path, SETTINGS, progress=False, extras=EXTRAS).prompts == 2
    with pytest.raises(UserError, match="was made with other settings: columns was"):
        generate_to_file(module, ["3 ?", "4 ?"], path, SETTINGS, progress=False)


def test_a_lone_surrogate_in_a_column_is_written_as_an_escape(module, tmp_path):
    extras = [{"id": "é\ud83d"}, {"id": "é"}]
    generate_to_file(module, ["3 ?", "4 ?"], tmp_path / "a.jsonl", SETTINGS, progress=False, extras=extras)
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["é\ud83d", "é"]
    assert "é" in lines[1]


def test_a_column_that_cannot_be_kept_is_named_with_its_prompt(module, tmp_path):
    deep = []
    for _ in range(101):
        deep = [deep]
    with pytest.raises(PromptError, match=r"^prompts\[1\]: column 'deep' is nested too deeply$"):
        generate_to_file(module, ["3 ?", "4 ?"], tmp_path / "a.jsonl", SETTINGS, extras=[{}, {"deep": deep}])
    assert not list(tmp_path.iterdir())


def test_other_verdicts_are_another_file(module, examples, tmp_path, monkeypatch):
    whole, begun = tmp_path / "whole.jsonl", tmp_path / "begun.jsonl"
    task, other = module.task(), task_by_name("chain", operations=4)
    generate_to_file(module, examples[:2], whole, SETTINGS, progress=False, task=task)
    with monkeypatch.context() as patch:
        patch.setattr(SharedCorpus, "finish", stop)
        with pytest.raises(Interrupted):
            generate_to_file(module, examples[:2], begun, SETTINGS, progress=False, task=task)
    answers = [replace(example, answer="9") for example in examples[:2]]
    texts = [example.prompt for example in examples[:2]]
    for path, state in ((whole, "made"), (begun, "begun")):
        for prompts, of_task, name in ((examples[:2], other, "task_options.operations"), (answers, task, "answers")):
            with pytest.raises(UserError, match=f"was {state} with other settings: {name} was"):
                generate_to_file(module, prompts, path, SETTINGS, progress=False, task=of_task)
        with pytest.raises(UserError, match=f"was {state} with other settings: task was 'chain', now None"):
            generate_to_file(module, texts, path, SETTINGS, progress=False)
    generate_to_file(module, texts, tmp_path / "texts.jsonl", SETTINGS, progress=False)
    with pytest.raises(UserError, match="was made with other settings: task was None, now 'chain'"):
        generate_to_file(module, examples[:2], tmp_path / "texts.jsonl", SETTINGS, progress=False, task=task)


def test_a_file_of_a_version_that_recorded_no_task_is_used(module, examples, tmp_path, monkeypatch):
    path, task = tmp_path / "a.jsonl", module.task()
    done = generate_to_file(module, examples[:2], path, SETTINGS, progress=False, task=task)
    record = tmp_path / "a.jsonl.manifest.json"
    manifest = json.loads(record.read_text())
    for name in ("task", "task_options", "answers"):
        del manifest["settings"][name]
    record.write_text(json.dumps(manifest))
    monkeypatch.setattr(module, "generate_batch", lambda *_, **__: pytest.fail("it decoded again"))
    assert generate_to_file(module, examples[:2], path, SETTINGS, progress=False, task=task) == done
