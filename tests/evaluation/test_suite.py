import json

import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.data.encoding import encode_prompt
from dmaxlit.engine import Trace
from dmaxlit.errors import UserError
from dmaxlit.evaluation.answerers import DiffusionAnswerer, Sampling
from dmaxlit.evaluation.sample_rows import trace_from_json, trace_to_json
from dmaxlit.tasks import TASKS, ChainTask, Example, Task
from tests.conftest import make_denoiser
from tests.evaluation.suites import FILES, rows, run, suite, tiny_module

pytestmark = pytest.mark.usefixtures("undrawn")


def test_answers_verdicts_and_figures_are_those_of_generate(module, ranks, tmp_path):
    run(module, ranks, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    examples = ChainTask(operations=3).examples("test", 5)
    assert [result["samples"] for result in record["results"]] == [
        f"chain/{name}" for name in (FILES[0], *FILES[:0:-1])
    ]
    for result in record["results"]:
        answers = module.generate(
            [example.prompt for example in examples], result["decoder"], max_new_tokens=12, **result["options"]
        )
        own = rows(tmp_path / "out" / result["samples"])
        for index, (row, answer, example) in enumerate(zip(own, answers, examples, strict=True)):
            assert row["index"] == index
            assert (row["prompt"], row["response"], row["answer"]) == (example.prompt, answer.text, example.answer)
            assert (row["token_ids"], row["num_forwards"]) == (answer.token_ids, answer.num_forwards)
            assert row["num_prompt_tokens"] == len(encode_prompt(module.tokenizer, example.prompt))
            assert row["correct"] == example.check(answer.text)
            assert row["extracted"] == example.extract(answer.text)
        tokens, forwards = sum(a.num_tokens for a in answers), sum(a.num_forwards for a in answers)
        eos = sum(a.ends_with_eos for a in answers)
        assert result["tpf"]["dmaxlit"] == pytest.approx(tokens / forwards)
        assert result["tpf"]["without_eos"] == pytest.approx((tokens - eos) / forwards)
        assert result["counts"]["tokens"] == tokens
        assert result["accuracy"] == pytest.approx(sum(row["correct"] for row in own) / 5)
        assert result["timing"]["tokens_per_second"] == pytest.approx(tokens / result["timing"]["seconds"])


def test_the_longest_prompt_is_in_the_warm_up(module, ranks, tmp_path, monkeypatch):
    warmed = []
    monkeypatch.setattr(DiffusionAnswerer, "warm_up", lambda self, prompts, limits: warmed.append(prompts))
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(f'{{"prompt": "1{n * " +1"} ?", "answer": "2"}}\n' for n in (1, 2, 9, 4)))
    tasks = {"tasks": ["jsonl"], "options": {"jsonl": {"test": str(questions)}}}
    run(module, ranks, tmp_path / "out", num_prompts=4, decoders=[{"name": "spd"}], **tasks)
    expected = [f"1{n * ' +1'} ?" for n in (9, 1, 2, 4)]
    assert warmed == [expected, expected]  # of one token per forward too


def test_a_window_is_used_and_recorded(module, ranks, tmp_path):
    wide = {"name": "spd", "window": 3, "admission": "progress", "admission_options": {"theta": 0.0}}
    run(module, ranks, tmp_path / "out", decoders=[wide], max_new_tokens=24)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    (result,) = [result for result in record["results"] if result["decoder"] == "spd"]
    assert result["title"] == "spd window=3 progress theta=0.0"
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert record["settings"]["decoders"] == settings["decoders"]
    assert settings["decoders"][result["title"]] == {
        "decoder": "spd",
        "options": {},
        "window": 3,
        "admission": "progress",
        "admission_options": {"theta": 0.0},
    }
    prompts = [example.prompt for example in ChainTask(operations=3).examples("test", 5)]
    answers = module.generate(
        prompts, "spd", max_new_tokens=24, window=3, admission="progress", admission_options={"theta": 0.0}
    )
    assert [row["num_forwards"] for row in rows(tmp_path / "out" / result["samples"])] == [
        answer.num_forwards for answer in answers
    ]
    assert any(answer.num_extra_blocks for answer in answers)
    traced = Trace()
    module.generate(prompts, "spd", max_new_tokens=24, window=3, admission_options={"theta": 0.0}, trace=traced)
    for trace in traced.rows.values():
        stored = trace_from_json(json.loads(json.dumps(trace_to_json(trace))))
        assert torch.equal(stored.timeline()[0], trace.timeline()[0])


def test_a_file_of_answers_records_the_options_of_task_and_decoder(module, ranks, tmp_path):
    run(module, ranks, tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    for path in tmp_path.rglob("*.manifest.json"):
        own = json.loads(path.read_text())["settings"]
        assert own["task_options"] == settings["tasks"]["chain"]["options"] != {}
        assert own["options"] == settings["decoders"][own["title"]]["options"]


def test_samples_depend_on_seed_and_prompt_only(module, ranks, tmp_path):
    for name, seed, batch_size in (("a", 1, 5), ("b", 1, 2), ("c", 2, 5)):
        run(module, ranks, tmp_path / name, batch_size=batch_size, sampling=Sampling(1.5, 0.9, seed))
    a, b, c = ((tmp_path / name / "chain" / FILES[1]).read_bytes() for name in "abc")
    assert a == b != c


def test_traces_are_in_the_rows_on_request(module, ranks, tmp_path):
    run(module, ranks, tmp_path / "plain")
    run(module, ranks, tmp_path / "traced", trace=True)

    trace = Trace()
    prompts = [example.prompt for example in ChainTask(operations=3).examples("test", 5)]
    module.generate(prompts, "spd", max_new_tokens=12, tau_dec=0.0, trace=trace)
    both = (rows(tmp_path / name / "chain" / FILES[1]) for name in ("plain", "traced"))
    for plain, traced in zip(*both, strict=True):
        expected, read = trace.rows[traced["index"]], trace_from_json(traced.pop("trace"))
        assert plain == traced
        for name in ("start", "ids", "state"):
            assert torch.equal(getattr(read, name), getattr(expected, name))
        torch.testing.assert_close(read.confidence, expected.confidence, atol=1e-3, rtol=0)


def refuse(task):
    raise UserError("sandbox: expected one of bubblewrap and namespaces, got none")


class Grading(Task):
    """Three prompts that are continued up to a stop text; its record says how answers are graded."""

    stop = ("so",)
    max_new_tokens = 9

    def count(self, split):
        return 3 if split == "test" else 0

    def examples(self, split, n):
        assert n <= 3
        return [Example(f"{digit} +1 ?", "", lambda text: True, extra={"id": digit}) for digit in range(n)]

    def record(self):
        return {"sandbox": "none needed"}


def test_a_task_s_own_limits_numbers_and_facts_are_used(module, ranks, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS._classes, "grading", Grading)
    run(module, ranks, tmp_path, tasks=("grading",), options={}, num_prompts=100, max_new_tokens=None)
    record = json.loads((tmp_path / "record.json").read_text())
    facts = record["tasks"]["grading"]
    assert (facts["num_prompts"], facts["max_new_tokens"], facts["stop"]) == (3, 9, ["so"])
    assert facts["sandbox"] == "none needed"
    assert record["results"][0]["accuracy"] == facts["y_max"] / 100 == 1.0
    first = rows(tmp_path / "grading/one_token.jsonl")[0]
    assert (first["extracted"], first["columns"]) == (None, {"id": 0})
    monkeypatch.setattr(Grading, "record", refuse)
    with pytest.raises(UserError, match="sandbox: expected one of bubblewrap"):
        run(module, ranks, tmp_path / "none", tasks=("grading",), options={}, max_new_tokens=None)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="tasks: expected val prompts of 'grading', found none"):
        suite(tasks=("grading",), options={}, split="val").cells(module)


@pytest.mark.parametrize("number", [5000, None])
def test_all_are_answered_of_a_task_that_draws_fewer_prompts_than_the_number(module, number):
    cells = suite(options={"chain": {"operations": 3}}, num_prompts=number).cells(module)
    assert {len(cell.examples) for cell in cells} == {48}


def test_the_table_has_the_baseline_aup_and_all_rules_of_counting(module, ranks, tmp_path):
    table = run(module, ranks, tmp_path)
    assert table == (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "5 prompts; AUP with y_max" in table
    lines = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert lines[-3:] == ["one_token", "spd tau_dec=0.5", "spd tau_dec=0.0"]
    header = [cell.strip() for cell in table.splitlines()[4].strip("|").split("|")]
    assert header[2:5] == ["TPF", "TPF without EOS", "TPF published"]


@pytest.mark.parametrize("columns", ["80", "300"])
def test_progress_is_shown_with_accuracy_and_tpf(module, ranks, tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "24")
    run(module, ranks, tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert "[2/3] chain, spd tau_dec=0.5" in shown
    assert "5/5" in shown
    result = json.loads((tmp_path / "record.json").read_text())["results"][0]
    assert f"accuracy {100 * result['accuracy']:.1f}%, TPF {result['tpf']['dmaxlit']:.2f}" in shown


def test_a_prompt_that_does_not_fit_is_named_before_anything_is_written(ranks, tmp_path):
    small = DMaxModule(make_denoiser(max_position_embeddings=16))
    with pytest.raises(UserError, match=r"chain: test prompt 1 \('.*'\): is too long .expected at most 15 tokens"):
        run(small, ranks, tmp_path / "out", options={"chain": {"operations": 20}})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("trained", "here", "lines"),
    [
        (
            ("chain", {"operations": 3, "seed": 0}),
            {},
            ["task.chain.operations: None by default, but the model was trained"],
        ),
        (("chain", {"operations": 4}), {"operations": 3}, []),  # asked for
        (("sudoku", {"operations": 3}), {}, []),
    ],
)
def test_options_that_nobody_set_and_the_model_was_not_trained_with_are_said(
    ranks, tmp_path, recwarn, trained, here, lines
):
    module = tiny_module()
    module.set_task(*trained)
    run(module, ranks, tmp_path, options={"chain": here}, num_prompts=2)
    said = [str(warning.message) for warning in recwarn if "by default" in str(warning.message)]
    assert len(said) == len(lines)
    assert all(message.startswith(line) for message, line in zip(said, lines, strict=True))
