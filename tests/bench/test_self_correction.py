import json
import shutil

import pytest

from dmaxlit import UserError
from dmaxlit.bench import SelfCorrectionBench, self_correction, table_rows
from dmaxlit.bench.command import RECIPE_FOLDER
from dmaxlit.bench.output_folder import record_settings
from dmaxlit.bench.studies import STUDIES
from dmaxlit.files import write_json


def test_a_folder_without_the_recipes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"configs: expected a folder with .*\.yaml"):
        SelfCorrectionBench(output=tmp_path, configs=tmp_path)


def test_an_unknown_study_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"study: expected one of methods, .*, trajectories, got 'all'"):
        SelfCorrectionBench(output=tmp_path, study="all")


@pytest.mark.parametrize("setting", ["num_bases", "workers", "num_examples"])
def test_settings_below_one_are_refused(setting, tmp_path):
    with pytest.raises(UserError, match=f"{setting}: expected at least 1, got 0"):
        SelfCorrectionBench(output=tmp_path, **{setting: 0})


FIGURES = ("accuracy", "tpf", "tpf_ceiling", "tpf_ceiling_two", "forwards_per_answer", "tokens_per_second", "finished")


def results(rows):
    return [{"row": row.key, "num_examples": 1000, **dict.fromkeys(FIGURES, 0.5)} for row in rows]


def store(folder, *seeds):
    """Write what the jobs of all methods and some seeds leave in the folder of a study."""
    (folder / "runs").mkdir(parents=True)
    study = STUDIES["methods"]
    for method, seed in (("base", 0), *((method, seed) for method in study.methods for seed in seeds)):
        rows = [row for row in study.rows if row.method == method]
        write_json(folder / "runs" / f"{method}-{seed}.json", results(rows))


def test_the_table_has_the_seeds_that_are_asked_for(tmp_path):
    store(tmp_path / "methods", 0, 1, 2)
    SelfCorrectionBench(output=tmp_path, num_bases=1, seeds=(2, 0)).run()
    written = json.loads((tmp_path / "methods" / "results.json").read_text())
    assert {entry["accuracy"]["seeds"] for entry in written["summary"] if not entry["row"].startswith("base")} == {2}
    assert len(written["runs"]) == 1 + 2 * len(STUDIES["methods"].methods)


def test_rows_that_a_finished_model_lacks_are_decoded(tmp_path, monkeypatch):
    store(tmp_path / "methods", 0)
    path = tmp_path / "methods" / "runs" / "on_policy-0.json"
    write_json(path, json.loads(path.read_text())[:-2])
    decoded = []

    def decode(model, number, rows, num_examples):
        decoded.extend(row.label for row in rows)
        return results(rows)

    monkeypatch.setattr(self_correction, "run_jobs", lambda bench, jobs, *_: [bench.job(*job) for job in jobs])
    monkeypatch.setattr(table_rows, "decode_rows", decode)
    monkeypatch.setattr(SelfCorrectionBench, "_train", lambda *_: "a model")
    bench = SelfCorrectionBench(output=tmp_path, num_bases=1, seeds=(0,))
    table = bench.run()
    assert decoded == [row.label for row in STUDIES["methods"].rows[-2:]]
    assert len(table.splitlines()) == 2 + len(STUDIES["methods"].rows)
    assert bench.run() == table
    assert len(decoded) == 2


def test_finished_jobs_are_not_done_again_and_the_table_is_written(tmp_path):
    bench = SelfCorrectionBench(output=tmp_path / "out", num_bases=1, seeds=(0,))
    folder, study = tmp_path / "out" / "methods", STUDIES["methods"]
    store(folder, 0)
    bench.job("on_policy", 0)  # finished already: returns at once
    table = bench.run()
    assert (folder / "table.md").read_text(encoding="utf-8") == table + "\n"
    assert len(json.loads((folder / "results.json").read_text())["summary"]) == len(study.rows)
    other = SelfCorrectionBench(output=tmp_path / "out", num_bases=1, seeds=(0,), num_examples=64)
    with pytest.raises(UserError, match=r"num_examples: expected 1000, as in the results in .*, got 64"):
        other.run()


@pytest.mark.slow
def test_a_failed_job_is_reported_with_its_log(tmp_path, monkeypatch):
    configs = shutil.copytree(RECIPE_FOLDER, tmp_path / "configs")

    def claim_and_lose(*arguments):
        record_settings(*arguments)
        shutil.rmtree(configs)  # the jobs check it again and refuse

    monkeypatch.setattr("dmaxlit.bench.self_correction.record_settings", claim_and_lose)
    bench = SelfCorrectionBench(output=tmp_path / "out", configs=configs, num_bases=1, seeds=(0,), num_examples=1)
    with pytest.raises(UserError, match=r"bench: base 0 failed with exit status 1; see .*base-0\.log"):
        bench.run()
    assert "expected a folder with" in (tmp_path / "out" / "methods" / "logs" / "base-0.log").read_text()
