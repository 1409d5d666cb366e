import json

import pytest

from dmaxlit import DMaxModule
from dmaxlit.bench.decoding_ranks import DecodingRun
from dmaxlit.bench.process_figures import read_figures
from tests.conftest import make_denoiser


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    DMaxModule(make_denoiser(sharpen=3.0)).export(folder)
    return str(folder)


def run_of(model, folder, command, **settings):
    chosen = {"num_prompts": 3, "batch_size": 2, "device": "cpu", "devices": 1, "threads": 1, "dtype": "float32"}
    return DecodingRun(command, str(folder), model, **{**chosen, **settings})


def test_figures_are_those_of_the_answers_alone(model, tmp_path):
    run = run_of(model, tmp_path, "distill", number=1)
    assert DecodingRun(**json.loads(run.arguments())) == run
    (tmp_path / "start").mkdir()
    run.measure()
    (figures,) = read_figures(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "corpus-1.jsonl").read_text().splitlines()]
    manifest = json.loads((tmp_path / "corpus-1.jsonl.manifest.json").read_text())
    assert len(rows) == 3
    assert 0 < figures.tokens <= 3 * manifest["settings"]["max_new_tokens"]
    assert figures.seconds > 0
    assert figures.cpu_seconds > 0


def test_warm_ups_of_the_evaluation_are_not_counted(model, tmp_path):
    run_of(model, tmp_path, "evaluate").measure()
    (figures,) = read_figures(tmp_path)
    (answers,) = (tmp_path / "evaluation-0").rglob("*.jsonl")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(rows) == 3
    assert figures.tokens == sum(row["num_tokens"] for row in rows)
    assert figures.rest_seconds > 0
