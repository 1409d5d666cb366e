import csv
import json
import re
from pathlib import Path

import pytest
import yaml

import dmaxlit


@pytest.fixture
def runs(dmax, base, tiny, tmp_path):
    """Train twice with different noise, and evaluate once."""
    for level in (0.25, 0.75):
        settings = yaml.safe_load(base.read_text())
        settings["model"]["noise"]["init_args"]["level"] = level
        settings["trainer"]["default_root_dir"] = f"runs/level{level}"
        settings["trainer"]["callbacks"] = [
            {"class_path": "SPDValidation", "init_args": {"max_new_tokens": 8, "curve": [0.0, 0.5]}},
            {"class_path": "ComparisonReport", "init_args": {"max_new_tokens": 8}},
        ]
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        ended = dmax("fit --config run.yaml")
        assert ended.status == 0, ended.err
    short = "--tasks chain --task.chain.operations 3 --num_prompts 3 --max_new_tokens 8 --device cpu --decoders spd"
    assert dmax(f"evaluate --model {tiny} --output runs/eval {short}").status == 0
    (tmp_path / "runs/empty").mkdir()
    return sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_runs_of_fit_and_evaluate_are_compared_and_written(runs, dmax, tmp_path):
    ended = dmax(["compare", *runs, "--csv", "out/runs.csv", "--json", "runs.json", "--plot", "curves.svg"])
    assert ended.status == 0, ended.err
    assert ended.err.splitlines() == ["runs/empty: no figures of a run; skipped"]
    assert "| run       | model.noise.level |" in ended.out
    assert "| level0.25 | 0.25              |" in ended.out
    assert "## chain, test prompts" in ended.out
    rows = list(csv.DictReader((tmp_path / "out/runs.csv").read_text().splitlines()))
    assert {row["run"] for row in rows} == {"eval", "level0.25", "level0.75"}
    assert {row["settings.model.noise.level"] for row in rows} == {"", "0.25", "0.75"}
    payload = json.loads((tmp_path / "runs.json").read_text())
    assert payload["differences"] == {"model.noise.level": {"level0.25": 0.25, "level0.75": 0.75}}
    fit = payload["runs"][1]
    assert fit["settings"]["trainer.max_steps"] == 2
    assert fit["settings"]["steps"] == 2
    assert fit["train_seconds"] > 0
    assert fit["peak_memory_mib"] > 100
    assert "level0.25: " in (tmp_path / "curves-chain-validation-prompts.svg").read_text()


def test_bad_input_is_refused_in_one_line(dmax, tmp_path):
    (tmp_path / "runs/a").mkdir(parents=True)
    for line, refusal in (
        ("compare", "runs: expected folders of runs, such as runs/*, got none"),
        ("compare runs/gone", "runs: expected folders of runs, got 'runs/gone', which does not exist"),
        ("compare runs/a", "runs: expected a folder with results.json of ComparisonReport, "),
        ("compare runs/a --plot x.gif", "plot: expected a file that ends in .png, .svg, .pdf, got 'x.gif'"),
        ("compare runs/a --csv o --json ./o", "json: expected another file than --csv, got './o'"),
        ("compare runs/a --json runs/a/record.json", "json: expected another file than those of the runs, got "),
        ("compare runs/a --csv runs", "csv: expected a file to write, got the folder 'runs'"),
    ):
        assert dmax(line).refusal.startswith(refusal)
    (tmp_path / "runs/a/results.json").write_text("{")
    assert dmax("compare runs/a").refusal.startswith("runs/a/results.json: cannot be read")


def test_the_sweep_of_the_guide_is_of_commands_that_exist(dmax):
    guide = Path(dmaxlit.__file__).parent / "evaluation" / "README.md"
    (command,) = re.findall(r"^for level in .*?python -m dmaxlit (fit .*?)^done", guide.read_text(), re.DOTALL | re.M)
    line = (
        command.replace("\\\n", " ").replace("$level", "0.25").replace("configs/quickstart.yaml", "builtin:quickstart")
    )
    settings = yaml.safe_load(dmax(f"{line} --print_config").out)
    assert settings["model"]["noise"]["init_args"]["level"] == 0.25
    assert settings["trainer"]["default_root_dir"] == "runs/level-0.25"
