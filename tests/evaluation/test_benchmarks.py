"""Published benchmarks through the whole evaluation, with rows of the same schema."""

import json

import pytest
from lightning.fabric import Fabric

from dmaxlit import DMaxModule
from dmaxlit.errors import UserError
from dmaxlit.evaluation.decoder_entries import decoder_entries
from dmaxlit.evaluation.suite import Suite
from dmaxlit.evaluation.task_entries import task_entries
from dmaxlit.ranks import Ranks
from tests.conftest import make_denoiser


@pytest.fixture
def gsm8k(write_rows):
    rows = [{"question": f"What is {i} + 1 ?", "answer": f"It is {i + 1}\n#### {i + 1}"} for i in range(3)]
    return write_rows(rows, "gsm8k.jsonl")


def suite(options):
    return Suite(task_entries(["gsm8k"], {"gsm8k": options}), decoder_entries(["spd"]), max_new_tokens=8)


def test_each_template_is_evaluated_on_all_rows_of_a_file(gsm8k, tmp_path):
    module = DMaxModule(make_denoiser(max_position_embeddings=2048))
    ranks = Ranks(Fabric(accelerator="cpu", devices=1))
    options = {"path": gsm8k, "template": ["zero_shot", "few_shot"]}
    suite(options).run(ranks, lambda: module, "builtin:chain-base", tmp_path / "out", progress=False)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert list(record["tasks"]) == ["gsm8k-zero_shot", "gsm8k-few_shot"]
    zero, few = record["tasks"].values()
    assert (zero["template"], zero["num_prompts"], zero["grading"]) == ("zero_shot", 3, "strict")
    assert zero["shots"] == 0 < few["shots"]
    assert zero["prompts"] != few["prompts"]
    assert few["stop"]
    samples = (tmp_path / "out" / "gsm8k-few_shot" / "spd.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in samples] == ["1", "2", "3"]


def test_a_context_too_short_for_the_worked_examples_is_named(gsm8k):
    module = DMaxModule(make_denoiser(max_position_embeddings=64))
    with pytest.raises(UserError, match=r"gsm8k: test prompt 1 \('.*'\): is too long .expected at most 63 tokens"):
        suite({"path": gsm8k, "template": "few_shot"}).cells(module)


def test_an_unknown_template_is_refused_with_the_known_ones(gsm8k):
    with pytest.raises(UserError, match=r"template: expected one of gsm8k .*dmax.*, got 'nope'"):
        suite({"path": gsm8k, "template": ["dmax", "nope"]})
