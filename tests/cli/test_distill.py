import json

import pytest

import dmaxlit
from dmaxlit.errors import UserError
from tests.cli.conftest import TASK

SHORT = "--keep all --max_new_tokens 6 --num_prompts 3"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest(path):
    return json.loads(path.with_name(path.name + ".manifest.json").read_text())


def test_the_task_a_model_was_trained_on_is_the_default(dmax, tiny, tmp_path):
    ended = dmax(f"distill --model {tiny} --output c.jsonl {SHORT}")
    assert ended.status == 0, ended.err
    expected = [example.prompt for example in dmaxlit.task("chain", **TASK).examples("train", 3)]
    assert [row["prompt"] for row in rows(tmp_path / "c.jsonl")] == expected
    settings = manifest(tmp_path / "c.jsonl")["settings"]
    assert (settings["decoder"], settings["decoder_options"]) == ("threshold", {"threshold": 0.95})
    assert "kept 3 of 3 answers" in ended.out


def test_decoder_and_task_take_options_as_flags(dmax, tiny, tmp_path):
    flags = "--decoder spd --decoder.tau_dec 0.25 --task.operations 4"
    assert dmax(f"distill --model {tiny} --output c.jsonl {SHORT} {flags}").status == 0
    settings = manifest(tmp_path / "c.jsonl")["settings"]
    assert settings["decoder_options"] == {"tau_dec": 0.25}
    assert settings["task_options"]["operations"] == 4


def test_prompts_may_come_from_a_file(dmax, tiny, corpus, tmp_path):
    ended = dmax(f"distill --model {tiny} --output c.jsonl --keep all --max_new_tokens 6 --prompts {corpus}")
    assert ended.status == 0, ended.err
    assert [row["prompt"] for row in rows(tmp_path / "c.jsonl")] == [row["prompt"] for row in rows(corpus)]


def test_the_same_command_again_changes_nothing(dmax, tiny, tmp_path):
    for _ in range(2):
        assert dmax(f"distill --model {tiny} --output c.jsonl {SHORT}").status == 0
        state = (tmp_path / "c.jsonl").stat()
    assert (tmp_path / "c.jsonl").stat() == state
    assert len(rows(tmp_path / "c.jsonl")) == 3


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--keep best", "keep: expected 'finished', 'correct' or 'all', got 'best'"),
        ("--task chan", "unknown task 'chan'; known: chain"),
        ("--task chain --prompts x.txt", "prompts: expected either a task or a file of prompts, got both"),
        ("--prompts gone.txt", "prompts: cannot read 'gone.txt'"),
        ("--num_prompts 0", "num_prompts: expected at least 1, got 0"),
        ("--num_prompts 3 --decoder.threshold 2", "threshold: expected a number in [0, 1], got 2"),
        ("--modl x", "unknown setting 'modl' (did you mean model?)"),
        ("--device nowhere", "device: "),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, tiny, flags, refusal):
    ended = dmax(f"distill --model {tiny} --output c.jsonl {flags}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith(f"error: {refusal}")


def test_a_model_that_does_not_know_its_task_needs_one(dmax, tmp_path):
    from dmaxlit.cli.distill import distill
    from tests.conftest import make_denoiser

    dmaxlit.DMaxModule(make_denoiser()).export(tmp_path / "blank")
    with pytest.raises(UserError, match=r"task: expected a task or a file of prompts; '.*' does not say"):
        distill(str(tmp_path / "blank"), "c.jsonl")
