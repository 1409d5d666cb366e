import json
import os

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.engine import DecodeSettings
from dmaxlit.evaluation import batch_generate
from dmaxlit.evaluation.batch_generate import generate_to_file


@pytest.fixture(scope="module")
def module():
    return dmaxlit.load("builtin:chain-base")


@pytest.fixture(scope="module")
def examples(module):
    return module.task().examples("test", 11)


SETTINGS = DecodeSettings("threshold", {"threshold": 0.0}, 96, batch_size=1, temperature=0.7)


class Interrupted(BaseException):
    pass


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
        calls.append(len(args[0]))
        if len(calls) == 2:
            raise Interrupted
        return genuine(*args, **kwargs)

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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.jsonl", "whole.jsonl"]


def test_other_settings_are_refused_unless_it_starts_over(module, examples, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"

    def stop(*args, **kwargs):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(batch_generate.PartialCorpus, "finish", stop)
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
    with pytest.raises(UserError, match=r"output: '.*answers.jsonl' exists; give another name, or overwrite"):
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
