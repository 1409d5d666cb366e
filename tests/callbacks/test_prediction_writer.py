import json
import os
from dataclasses import replace

import pytest

from dmaxlit.callbacks import DecoderSpec, PredictionWriter
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.errors import UserError
from dmaxlit.metrics.base import RatioMetric
from dmaxlit.tasks import ChainTask
from dmaxlit.tasks.prompts import TemplatedPrompt
from tests.callbacks.fakes import LIGHTNING_WARNINGS, NUM_TEST, FakeModule, examples, make_data, make_trainer, record
from tests.lock_holder import held_by_another

pytestmark = [LIGHTNING_WARNINGS, pytest.mark.filterwarnings("ignore:predict returned None")]
SPEC = DecoderSpec("threshold", {"threshold": 0.25})


def predict(folder, writer, data=None):
    module = FakeModule()
    make_trainer(folder, [writer]).predict(module, datamodule=data or make_data(), return_predictions=False)
    return module


def with_columns(folder, **columns):
    """Return the test prompts as a file's, with other columns."""
    lines = [
        json.dumps({"prompt": e.prompt, "answer": "4", **columns, "id": i}) for i, e in enumerate(examples("test"))
    ]
    (folder / "test.jsonl").write_text("\n".join(lines))
    options = {"test": str(folder / "test.jsonl")}
    return SelfDistilledDataModule(task="jsonl", task_options=options, num_test=NUM_TEST, eval_batch_size=4)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_test_prompt_has_a_row_with_its_answer_counts_and_verdict_in_order(tmp_path, capsys):
    predict(tmp_path, PredictionWriter(str(tmp_path / "new" / "out.jsonl"), SPEC))
    answers = rows(tmp_path / "new" / "out.jsonl")
    assert [row["index"] for row in answers] == list(range(NUM_TEST))
    for row, example in zip(answers, examples("test"), strict=True):
        tokens, forwards, finished, hit_step_limit, right = record(example.prompt, SPEC.name, SPEC.options)
        assert row["prompt"] == example.prompt
        assert (row["num_tokens"], row["num_forwards"], row["finished"]) == (tokens, forwards, finished)
        assert (row["hit_step_limit"], row["correct"]) == (hit_step_limit, right)
        assert example.check(row["response"]) == right
    assert "threshold threshold=0.25" in capsys.readouterr().out


def test_budget_and_batch_size_reach_the_engine(tmp_path):
    module = predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC, max_new_tokens=7, batch_size=3))
    assert {call[3:] for call in module.calls} == {(7, 3)}


def test_the_stop_texts_are_the_tasks_and_a_file_begun_without_them_does_not_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(PredictionWriter, "on_predict_epoch_end", lambda *args: None)  # its part stays
    writer = PredictionWriter(str(tmp_path / "out.jsonl"), SPEC)
    assert predict(tmp_path, writer).stops == {()}
    monkeypatch.setattr(ChainTask, "stop", ("####",))
    with pytest.raises(UserError, match=r"stop was None, now \['####'\]"):
        predict(tmp_path, writer)
    assert predict(tmp_path, PredictionWriter(str(tmp_path / "new.jsonl"), SPEC)).stops == {("####",)}


def test_ranks_do_not_wait_for_each_other_in_a_batch(tmp_path, monkeypatch):
    """They may have different numbers of batches."""

    def wait(metric):
        raise AssertionError("a sum over ranks")

    monkeypatch.setattr(RatioMetric, "counts", wait)
    monkeypatch.setattr(PredictionWriter, "on_predict_epoch_end", lambda *args: None)  # where they do
    writer = PredictionWriter(str(tmp_path / "out.jsonl"), SPEC)
    predict(tmp_path, writer)
    assert writer._partial.progress.seconds == float(writer._meter.tps.denominator) > 0


def test_an_earlier_file_is_replaced(tmp_path):
    for _ in range(2):
        predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC))
    assert len(rows(tmp_path / "out.jsonl")) == NUM_TEST


class Interrupted(BaseException):
    pass


def interrupt(*_):
    raise Interrupted


def test_a_damaged_partial_file_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(PredictionWriter, "on_predict_epoch_end", lambda *args: None)  # its part stays
    writer = PredictionWriter(str(tmp_path / "out.jsonl"), SPEC)
    predict(tmp_path, writer)
    part = tmp_path / "out.jsonl.rank0.partial"
    part.write_bytes(bytes(9) + part.read_bytes()[9:])
    with pytest.raises(UserError, match=r"rank0.partial: is damaged at byte 0; delete it and .*rank0.progress.json$"):
        predict(tmp_path, writer)


def test_an_interrupted_run_goes_on_and_answers_nothing_twice(tmp_path, capsys):
    def without_times(text):
        cells = [line.split("|") for line in text.splitlines() if line.startswith("|")]
        speed = next(index for index, cell in enumerate(cells[0]) if "tokens/s" in cell)
        return [row[:speed] + row[speed + 1 :] for row in cells]

    predict(tmp_path, PredictionWriter(str(tmp_path / "whole.jsonl"), SPEC))
    table = without_times(capsys.readouterr().out)
    part = tmp_path / "part.jsonl"
    writer = PredictionWriter(str(part), SPEC)
    genuine, calls = writer.on_predict_batch_end, []

    def interrupted(*args, **kwargs):
        if calls:
            raise Interrupted
        calls.append(genuine(*args, **kwargs))

    writer.on_predict_batch_end = interrupted
    with pytest.raises(Interrupted):
        predict(tmp_path, writer)
    assert not part.exists()
    begun = len(rows(tmp_path / "part.jsonl.rank0.partial"))
    assert 0 < begun < NUM_TEST

    capsys.readouterr()
    with pytest.raises(UserError, match="was begun with other settings: decoder was"):
        predict(tmp_path, PredictionWriter(str(part), DecoderSpec("threshold", {"threshold": 0.5})))
    module = predict(tmp_path, PredictionWriter(str(part), SPEC))
    assert sum(len(call[0]) for call in module.calls) == NUM_TEST - begun
    assert part.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert without_times(capsys.readouterr().out) == table
    assert not list(tmp_path.glob("part.jsonl.*"))


def test_a_file_begun_with_another_window_or_chat_template_does_not_go_on(tmp_path):
    def written(spec, template=None, interrupted=False):
        writer = PredictionWriter(str(tmp_path / "out.jsonl"), spec)
        if interrupted:
            writer.on_predict_epoch_end = interrupt
        module = FakeModule()
        module.tokenizer.chat_template = template
        make_trainer(tmp_path, [writer]).predict(module, datamodule=make_data(), return_predictions=False)
        return module

    windowed = DecoderSpec(SPEC.name, SPEC.options, window=2)
    with pytest.raises(Interrupted):
        written(windowed, interrupted=True)
    for other in (SPEC, DecoderSpec(SPEC.name, SPEC.options, window=2, admission="converging")):
        with pytest.raises(UserError, match="was begun with other settings: decoder was"):
            written(other)
    with pytest.raises(UserError, match="was begun with other settings: chat_template was None, now"):
        written(windowed, "{{ messages[0].content }}")
    assert written(windowed).calls == []


def test_what_cannot_be_written_to_is_refused_before_decoding(tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "out.jsonl"):
        writer = PredictionWriter(str(output), SPEC)
        with pytest.raises(UserError, match=r"output: "):
            predict(tmp_path, writer)


@pytest.mark.parametrize("setting", ["max_new_tokens", "batch_size"])
def test_a_setting_out_of_range_is_refused(setting):
    with pytest.raises(UserError, match=f"{setting}: expected at least 1, got 0"):
        PredictionWriter("out.jsonl", SPEC, **{setting: 0})


def test_two_processes_do_not_write_one_file(tmp_path):
    with held_by_another(tmp_path / "out.jsonl.rank0") as other:
        with pytest.raises(UserError, match=f"output: .* is being written by process {other.pid} on"):
            predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC))
        assert not list(tmp_path.glob("out.jsonl*"))
    predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC))
    assert not list(tmp_path.glob(".*.lock"))


def test_what_is_no_file_is_not_replaced_and_a_link_is_written_through(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"output: .*which is a device or a pipe"):
        predict(tmp_path, PredictionWriter(str(tmp_path / "pipe"), SPEC))
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    predict(tmp_path, PredictionWriter(str(tmp_path / "link"), SPEC))
    assert (tmp_path / "link").is_symlink()
    assert len(rows(tmp_path / "target")) == NUM_TEST


def test_links_under_the_names_of_unfinished_files_are_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out.jsonl.new").symlink_to(tmp_path / "victim")
    predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC))
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_columns_of_the_task_s_file_are_kept(tmp_path):
    predict(tmp_path, PredictionWriter(str(tmp_path / "bare.jsonl"), SPEC))
    predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC), with_columns(tmp_path, correct="?"))
    for index, (row, bare) in enumerate(
        zip(*map(rows, (tmp_path / "out.jsonl", tmp_path / "bare.jsonl")), strict=True)
    ):
        assert row == {**bare, "correct": row["correct"], "id": index, "prompt_correct": "?"}


def test_a_file_begun_with_other_columns_does_not_go_on(tmp_path):
    writer = PredictionWriter(str(tmp_path / "out.jsonl"), SPEC)
    writer.on_predict_epoch_end = interrupt
    columns = {"capped": 3, "ends_with_eos": "yes"}  # names that mean something here
    with pytest.raises(Interrupted):
        predict(tmp_path, writer, with_columns(tmp_path, **columns))
    with pytest.raises(UserError, match="was begun with other prompts"):
        predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC), with_columns(tmp_path, capped=4))
    module = predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC), with_columns(tmp_path, **columns))
    assert module.calls == []
    assert {row["capped"] for row in rows(tmp_path / "out.jsonl")} == {3}


def begun(folder, data):
    """Write the answers, interrupted before the file itself is written."""
    writer = PredictionWriter(str(folder / "out.jsonl"), SPEC)
    writer.on_predict_epoch_end = interrupt
    with pytest.raises(Interrupted):
        predict(folder, writer, data)


def test_prompts_of_an_interrupted_run_are_as_long_as_they_were(tmp_path, monkeypatch):
    """A templated prompt is stored as its text alone; the model was given its messages."""
    draw, seen = ChainTask.examples, []

    def templated(task, *args):
        turns = [(example, [{"role": "user", "content": str(example.prompt)}]) for example in draw(task, *args)]
        return [replace(example, prompt=TemplatedPrompt(example.prompt, messages)) for example, messages in turns]

    monkeypatch.setattr(ChainTask, "examples", templated)
    begun(tmp_path, make_data())
    monkeypatch.setattr(
        "dmaxlit.callbacks.prediction_writer.encode_prompts",
        lambda tokenizer, prompts: seen.extend(prompts) or [[0]] * len(prompts),
    )
    assert predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC)).calls == []
    assert [prompt.messages[0]["content"] for prompt in seen] == [str(prompt) for prompt in seen]
    assert len(seen) == NUM_TEST


def test_answers_of_an_interrupted_run_are_judged_by_the_answers_of_now(tmp_path, capsys):
    begun(tmp_path, with_columns(tmp_path))
    data = with_columns(tmp_path)
    text = (tmp_path / "test.jsonl").read_text().replace('"answer": "4"', '"answer": "5"')
    (tmp_path / "test.jsonl").write_text(text)
    module = predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC), data)
    assert module.calls == []
    again = rows(tmp_path / "out.jsonl")
    assert [row["correct"] for row in again] == [
        e.check(r["response"]) for e, r in zip(data.task.examples("test", NUM_TEST), again, strict=True)
    ]
    right = sum(row["correct"] for row in again)
    assert f"{100 * right / NUM_TEST:.1f} [" in capsys.readouterr().out


def test_a_shorter_run_writes_what_it_was_asked_for(tmp_path, capsys):
    begun(tmp_path, make_data())
    predict(tmp_path, PredictionWriter(str(tmp_path / "out.jsonl"), SPEC), make_data(num_test=3))
    assert [row["index"] for row in rows(tmp_path / "out.jsonl")] == [0, 1, 2]
    assert "3 answers" in capsys.readouterr().out


def test_the_prompts_are_not_overwritten(tmp_path):
    data, prompts = with_columns(tmp_path), tmp_path / "test.jsonl"
    before = prompts.read_bytes()
    with pytest.raises(UserError, match=r"output: expected another file than --data\.task_options\.test, got"):
        predict(tmp_path, PredictionWriter(str(prompts), SPEC), data)
    assert prompts.read_bytes() == before
    data.task.test = str(tmp_path)
    with pytest.raises(UserError, match=r"output: expected a file that --data\.task_options\.test .* does not"):
        predict(tmp_path, PredictionWriter(str(tmp_path / "new.jsonl"), SPEC), data)
