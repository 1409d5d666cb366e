import json
import logging
import sys

import pytest

from tests.cli.conftest import start

pytest.importorskip("lm_eval")


def lm_eval(folder, *args):
    """Run the command in a process of its own: lm-eval sets up the logging of the whole process."""
    return start([sys.executable, "-m", "dmaxlit", "lm_eval", *args], folder)


def write_task(folder):
    """Write a task of two rows; return what makes lm-eval run it."""
    (folder / "rows.jsonl").write_text('{"question": "1 +1 ?"}\n{"question": "2 +1 ?"}\n')
    task = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{question}}",
        "generation_kwargs": {"max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "local.yaml").write_text(json.dumps(task))
    return ["--tasks", "local", "--include_path", str(folder), "--model", "dmaxlit", "--device", "cpu"]


@pytest.mark.slow
def test_lm_eval_finds_the_model_by_name_and_records_how_it_decodes(tmp_path, tiny):
    args = ["--model_args", f"pretrained={tiny},decoder=spd,tau_dec=0.5", "--output_path", str(tmp_path / "results")]
    process = lm_eval(tmp_path, *write_task(tmp_path), *args)
    assert process.returncode == 0, process.stderr
    assert "exact_match" in process.stdout
    (path,) = (tmp_path / "results").rglob("results_*.json")
    config = json.loads(path.read_text())["config"]
    assert config["decoder_options"] == {"tau_dec": 0.5}
    assert config["tpf"] > 0


@pytest.fixture
def logging_is_as_before(monkeypatch):
    """Keep lm-eval from setting up the logging of this process."""
    monkeypatch.setattr("lm_eval.utils._LOGGING_CONFIGURED", True)
    level = logging.getLogger("lm_eval").level
    yield
    logging.getLogger("lm_eval").setLevel(level)


@pytest.mark.slow
@pytest.mark.usefixtures("logging_is_as_before")
def test_bad_arguments_of_the_model_are_one_line(dmax, tmp_path):
    ended = dmax(["lm_eval", *write_task(tmp_path), "--model_args", "dtype=float32"])
    assert ended.status == 2, ended.err
    line = "error: pretrained: expected a folder, .ckpt file, hub id or builtin:NAME, as in "
    assert ended.err.splitlines()[-1].startswith(line)
    assert "Traceback" not in ended.err
