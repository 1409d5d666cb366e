import json

import pytest
import torch

import dmaxlit
from dmaxlit import UserError
from dmaxlit.engine import DecodeSettings, Trace
from dmaxlit.evaluation.batch_generate import generate_to_file
from dmaxlit.evaluation.order_sources import decoded_orders, stored_orders
from tests.conftest import make_denoiser

SETTINGS = DecodeSettings("threshold", {"threshold": 0.3}, 20, 4)


@pytest.fixture(scope="module")
def module():
    return dmaxlit.DMaxModule(make_denoiser(block_length=8, sharpen=3.0))


@pytest.fixture(scope="module")
def examples():
    return dmaxlit.task("chain", operations=3).examples("test", 5)


@pytest.fixture
def files(module, examples, tmp_path):
    """Write trace and answers of the examples; return their paths."""
    trace = Trace()
    module.generate_batch([example.prompt for example in examples], SETTINGS, trace=trace)
    trace.save(tmp_path / "t.safetensors")
    generate_to_file(module, examples, tmp_path / "a.jsonl", SETTINGS, progress=False)
    return tmp_path / "t.safetensors", tmp_path / "a.jsonl"


def test_the_order_is_that_of_the_answers_after_each_forward(module, examples):
    for order, example in zip(decoded_orders(module, examples, SETTINGS), examples, strict=True):
        budgets, seen = [], Trace()
        answer = module.generate_batch([example.prompt], SETTINGS, trace=seen)[0]
        assert (list(order.token_ids), order.text, order.prompt) == (answer.token_ids, answer.text, example.prompt)
        assert order.right == example.check(answer.text)
        texts = seen.rows[0].timeline()[0].tolist()
        for position, final in enumerate(answer.token_ids):
            budgets.append(max([f + 2 for f, ids in enumerate(texts) if ids[position] != final], default=1))
        assert order.finalized.tolist() == budgets
        begin = len(module.tokenizer(example.prompt)["input_ids"])
        assert order.block.tolist() == [(begin + i) // 8 - begin // 8 for i in range(len(answer.token_ids))]


def test_saved_files_give_the_same_orders(module, examples, files):
    for decoded, stored in zip(decoded_orders(module, examples, SETTINGS), stored_orders(*files), strict=True):
        assert torch.equal(decoded.finalized, stored.finalized)
        assert torch.equal(decoded.block, stored.block)
        assert (decoded.right, decoded.text, decoded.token_ids) == (stored.right, stored.text, stored.token_ids)


def changed(row, **values):
    return {key: value for key, value in {**row, **values}.items() if value != "absent"}


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda rows: rows[:-1], "answers: expected those of the 5 prompts in"),
        (lambda rows: [], "answers: expected at least one, got none in"),
        (lambda rows: [*rows, rows[0]], "row 6: expected another index, got 0 again"),
        (lambda rows: [changed(rows[0], index="absent")], "row 1: expected the column 'index' as generate writes it"),
        (lambda rows: [changed(rows[0], index=True)], "row 1: expected the column 'index' as generate writes it"),
        (lambda rows: [changed(rows[0], prompt=3)], "row 1: expected the column 'prompt' as generate writes it"),
        (lambda rows: [changed(rows[0], prompt=["a"])], "row 1: expected messages as 'prompt', got a list of other"),
        (lambda rows: [changed(rows[0], token_ids="absent")], "expected the column 'token_ids' as generate writes it"),
        (lambda rows: [changed(rows[0], correct=1)], "row 1: expected true or false as 'correct', got a value of type"),
        (lambda rows: [[1]], "row 1: expected a JSON object, got a value of type list"),
        (lambda rows: [changed(rows[0], token_ids=[1]), *rows[1:]], "got others for the prompt with index 0"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(files, change, refusal):
    trace, answers = files
    rows = change([json.loads(line) for line in answers.read_text().splitlines()])
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as error:
        stored_orders(trace, answers)
    assert refusal in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_refused(files, tmp_path):
    trace, answers = files
    with pytest.raises(UserError, match="answers: cannot read"):
        stored_orders(trace, tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="trace: cannot read"):
        stored_orders(answers, answers)
    answers.write_text("{\n")
    with pytest.raises(UserError, match="row 1: expected a JSON object"):
        stored_orders(trace, answers)
