"""What the README shows is so."""

import json
import re
from pathlib import Path

import lightning as L
import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.bench import adaptation, decode_speed, decoders, train_speed
from dmaxlit.bench.rows import STUDIES
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.noise import NoiseStrategy
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block_after(heading, language="python"):
    return re.search(rf"{re.escape(heading)}.*?```{language}\n(.*?)```", README, re.DOTALL).group(1)


def test_the_strategy_of_ten_lines_trains():
    namespace = {}
    exec(compile(block_after("A strategy of your own"), "my_noise.py", "exec"), namespace)
    module = DMaxModule(make_denoiser(), namespace["SpanNoise"]())
    assert isinstance(module.noise, NoiseStrategy)
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, loader())
    assert torch.isfinite(trainer.callback_metrics["train/loss_span"])


def test_the_decoder_of_a_few_lines_decodes():
    namespace = {}
    exec(compile(block_after("A decoder of your own"), "my_file.py", "exec"), namespace)
    module = DMaxModule(make_denoiser(sharpen=3.0))
    answers = module.generate(["3 +1 ?", "7 *2 ?"], decoder=namespace["Hasty"](), max_new_tokens=16)
    assert all(answer.num_tokens > 0 and answer.num_forwards <= 16 for answer in answers)


def test_every_file_of_the_tree_exists():
    tree = block_after("## What is where", "")
    folder = Path()
    for line in tree.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        path = (folder if indent else Path()) / name
        assert (ROOT / path).exists(), f"README names {path}"
        if not indent:
            folder = Path(name)


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_named(recipe):
    assert f"`{recipe.stem}`" in README


def test_the_test_command_is_the_one_ci_runs():
    assert "python -m pytest\n" in README
    assert "<!-- test -->" in README
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


RESULTS = ROOT / "dmaxlit" / "bench" / "results"


def between(mark):
    return re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- /{mark} -->", README, re.DOTALL).group(1)


def test_the_results_table_is_what_the_benchmark_wrote():
    results = json.loads((RESULTS / "self_correction.json").read_text())
    rows = [result for run in results["runs"] for result in run]
    summary = summarize(rows, STUDIES["methods"].rows)
    assert between("self_correction") == format_summary(summary)
    assert {entry["accuracy"]["seeds"] for entry in summary if not entry["row"].startswith("base")} == {5}
    assert {row["num_examples"] for row in rows} == {1000}


@pytest.mark.parametrize(
    ("mark", "entries", "make", "format_table"),
    [
        ("decoders", "summary", None, decoders.format_table),
        ("decode_speed", "measurements", decode_speed.Measurement, decode_speed.format_table),
        ("train_speed", "measurements", train_speed.TrainingCost, train_speed.format_table),
    ],
)
def test_tables_of_the_other_benchmarks_are_what_they_wrote(mark, entries, make, format_table):
    found = json.loads((RESULTS / f"{mark}.json").read_text())[entries]
    assert between(mark) == format_table(found if make is None else [make(**entry) for entry in found])


def test_the_adaptation_table_is_what_the_benchmark_wrote():
    runs = json.loads((RESULTS / "adaptation.json").read_text())["runs"]
    rows = [result for run in runs for result in run]
    assert between("adaptation") == format_summary(summarize(rows, adaptation._ROWS))


@pytest.mark.parametrize("study", ["strategies", "truth"])
def test_the_comparison_of_strategies_is_what_the_benchmark_wrote(study):
    runs = json.loads((RESULTS / "strategies.json").read_text())[study]["runs"]
    rows = [result for run in runs for result in run]
    assert between(study) == format_summary(summarize(rows, STUDIES[study].rows))
