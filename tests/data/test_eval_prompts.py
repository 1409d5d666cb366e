import json
import logging
from types import SimpleNamespace

import pytest

from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.data.eval_prompts import EvalPrompts, decodable_examples
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask, Example


def example(prompt):
    return Example(prompt, "1", bool)


FITS, LONG = example("1 +2 ?"), example("1 " + "+2 " * 7 + "?")  # 3 and 9 tokens


def test_prompts_that_leave_room_for_an_answer_are_kept_in_order():
    tokenizer = ChainTask.tokenizer()
    assert len(tokenizer(LONG.prompt)["input_ids"]) == 9
    assert decodable_examples([LONG, FITS], "val", tokenizer, 10) == [LONG, FITS]
    assert decodable_examples([], "test", tokenizer, 10) == []


def test_a_prompt_that_fills_the_context_is_refused_by_number_and_beginning():
    message = r"^validation prompt 2 \('1 .*'\): is too long \(expected at most 8 tokens, as .* holds 9, got 9\)$"
    with pytest.raises(UserError, match=message):
        decodable_examples([FITS, LONG], "val", ChainTask.tokenizer(), 9)


def test_long_prompts_are_left_out_and_counted_under_skip(caplog):
    with caplog.at_level(logging.INFO):
        assert decodable_examples([LONG, FITS, LONG], "test", ChainTask.tokenizer(), 9, "skip") == [FITS]
    assert "kept 1 test prompts, skipped 2: 2 is too long" in caplog.text
    with pytest.raises(UserError, match="at least one usable test prompt, found none"):
        decodable_examples([LONG], "test", ChainTask.tokenizer(), 9, "skip")


def test_a_prompt_that_the_chat_template_refuses_is_refused_before_training(monkeypatch):
    def refuse(tokenizer, prompt):
        raise UserError("chat template: cannot be applied to the conversation")

    monkeypatch.setattr("dmaxlit.data.eval_prompts.encode_prompt", refuse)
    with pytest.raises(UserError, match=r"^test prompt 1 \('1 \+2 \?'\): cannot be encoded \(chat template: cannot"):
        decodable_examples([FITS], "test", ChainTask.tokenizer(), 9)


@pytest.mark.parametrize(("stage", "split"), [("fit", "val"), ("validate", "val"), ("test", "test")])
def test_the_data_module_checks_prompts_when_it_is_set_up(stage, split, tmp_path):
    rows = {name: tmp_path / f"{name}.jsonl" for name in ("train", "val", "test")}
    for name, path in rows.items():
        prompt = LONG.prompt if name == split else f"{len(name)} +2 ?"
        path.write_text(json.dumps({"prompt": prompt, "answer": "1", "response": "so"}) + "\n")
    files = {name: str(path) for name, path in rows.items()}
    data = SelfDistilledDataModule(task="jsonl", task_options=files, num_train=1, num_val=1, num_test=1)
    data.bind(ChainTask.tokenizer(), 4, 8)
    with pytest.raises(UserError, match=r"prompt 1 .*: is too long"):
        data.setup(stage)


def test_all_prompts_are_taken_where_nobody_says_how_many(tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(f'{{"prompt": "{n} ?", "answer": "{n}"}}\n' for n in range(3)))
    options = {"task": "jsonl", "task_options": {"test": str(tmp_path / "q.jsonl")}}
    data = SelfDistilledDataModule(**options)
    for stage in ("validate", "test"):
        data.setup(stage)
    assert data.val_dataloader() == []
    (loader,) = data.test_dataloader()
    assert sum(len(batch["examples"]) for batch in loader) == 3
    endless = EvalPrompts(ChainTask(), {"val": None}, 64, "error")
    endless.prepare("validate", None)
    (loader,) = endless.loaders("val", 0, 1)
    assert sum(len(batch["examples"]) for batch in loader) == 128


@pytest.mark.parametrize(
    ("stage", "split"), [("fit", "val"), ("validate", "val"), ("test", "test"), ("predict", "test")]
)
def test_fewer_prompts_than_ranks_are_refused_before_anything_is_decoded(stage, split):
    data = SelfDistilledDataModule(task="chain", num_train=4, num_val=2, num_test=2)
    data.bind(ChainTask.tokenizer(), 4, 128)
    limits = {"limit_val_batches": 1.0, "limit_test_batches": 1.0, "limit_predict_batches": 1.0}
    data.trainer = SimpleNamespace(
        overfit_batches=0, global_rank=0, world_size=3, state=SimpleNamespace(fn=None), **limits
    )
    with pytest.raises(UserError, match=f"^num_{split}: expected at least one prompt for each of 3 ranks, got 2$"):
        data.setup(stage)
    data.num_examples[split] = 0
    data.setup(stage)  # without any, nothing is decoded
    data.num_examples[split] = 3
    data.setup(stage)
    data.num_examples[split] = 2
    limit = {"test": "limit_test_batches", "predict": "limit_predict_batches"}.get(stage, "limit_val_batches")
    setattr(data.trainer, limit, 0)
    data.setup(stage)


def test_all_prompts_are_taken_of_a_task_that_draws_fewer_than_the_default():
    data = SelfDistilledDataModule(task="chain", task_options={"operations": 3}, eval_batch_size=64)
    data.bind(ChainTask.tokenizer(), 4, 64)
    data.setup("fit")
    (loader,) = data.val_dataloader()
    assert len(data.train_dataloader().dataset) == 384
    assert [len(batch["index"]) for batch in loader] == [48]


class Unjudged(ChainTask):
    def record(self):
        raise UserError("sandbox: expected one")


def test_answers_that_cannot_be_judged_here_are_refused_before_training():
    data = SelfDistilledDataModule(task=Unjudged(), num_train=1, num_val=1, num_test=0)
    data.bind(ChainTask.tokenizer(), 4, 64)
    with pytest.raises(UserError, match=r"^sandbox: expected one$"):
        data.setup("fit")
    data.setup("test")


@pytest.mark.parametrize(
    ("stage", "number", "message"),
    [
        ("validate", {"num_val": 1}, "num_val: expected at most the 0 val prompts without a file for val, got 1"),
        ("test", {"num_test": 9}, "num_test: expected at most the 3 test prompts of '.*q.jsonl', got 9"),
        ("fit", {"num_train": 9}, "num_train: expected at most the 0 train prompts without a file for train, got 9"),
        ("fit", {}, "corpus: task 'jsonl' has no training prompts; give a corpus"),
    ],
)
def test_a_number_beyond_the_prompts_is_refused_by_its_name(tmp_path, stage, number, message):
    (tmp_path / "q.jsonl").write_text("".join(f'{{"prompt": "{n} ?", "answer": "{n}"}}\n' for n in range(3)))
    options = {"task": "jsonl", "task_options": {"test": str(tmp_path / "q.jsonl")}}
    data = SelfDistilledDataModule(**number, **options)
    data.bind(ChainTask.tokenizer(), 4, 64)
    with pytest.raises(UserError, match=f"^{message}$"):
        data.setup(stage)
