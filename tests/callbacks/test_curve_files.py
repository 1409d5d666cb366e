import csv
import json
from types import SimpleNamespace

import pytest

from dmaxlit.callbacks import SPDValidation
from dmaxlit.callbacks._display import folder_of_run
from dmaxlit.errors import DMaxWarning
from dmaxlit.metrics import accuracy_under_parallelism
from tests.callbacks.fakes import LIGHTNING_WARNINGS, NUM_TEST, NUM_VAL, FakeModule, make_data, make_trainer

pytestmark = LIGHTNING_WARNINGS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train and test without a logger; return the folder and the callback."""
    folder = tmp_path_factory.mktemp("run")
    callback = SPDValidation(curve=[0.0, 0.5, 1.0])
    trainer, module = make_trainer(folder, [callback], max_epochs=1), FakeModule()
    trainer.fit(module, datamodule=make_data())
    trained = callback.curve_points()
    trainer.test(module, datamodule=make_data(), verbose=False)
    return folder, trained, callback.curve_points()


def test_the_curve_is_data_and_pictures_without_a_logger(run):
    folder, trained, tested = run
    names = [f"{name}.{kind}" for name in ("curve", "test_curve") for kind in ("csv", "json", "pdf", "png", "svg")]
    assert sorted(path.name for path in folder.iterdir()) == names
    data = json.loads((folder / "curve.json").read_text())
    assert data["points"] == trained
    assert (data["split"], data["steps"], data["num_prompts"]) == ("validation", 2, NUM_VAL)
    assert data["settings"]["trainer.max_epochs"] == 1
    points = [(p["tpf"], 100 * p["accuracy"]) for p in trained if p["label"] == "spd"]
    assert data["y_max"] == max(100 * p["accuracy"] for p in trained)
    assert data["aup"]["spd"] == pytest.approx(accuracy_under_parallelism(points, data["y_max"]))
    rows = list(csv.DictReader((folder / "curve.csv").read_text().splitlines()))
    assert [(row["title"], float(row["tpf"])) for row in rows] == [(p["title"], p["tpf"]) for p in trained]
    test = json.loads((folder / "test_curve.json").read_text())
    assert (test["split"], test["num_prompts"], test["points"]) == ("test", NUM_TEST, tested)
    assert test["prompts"] != data["prompts"]


def test_the_title_says_task_prompts_and_the_step_of_the_weights(run):
    assert f"chain, {NUM_VAL} validation prompts, step 2" in (run[0] / "curve.svg").read_text()
    assert f"chain, {NUM_TEST} test prompts, step 2" in (run[0] / "test_curve.svg").read_text()


def test_a_checkpoint_that_is_tested_gives_its_step(tmp_path):
    module = FakeModule()
    module.on_load_checkpoint({"global_step": 70})
    assert module.weights_step() == 70
    assert FakeModule().weights_step() is None


def test_what_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "curve.json").mkdir()
    trainer = make_trainer(tmp_path, [SPDValidation(curve=[0.5])], max_epochs=1)
    with pytest.warns(DMaxWarning, match=r"the curve cannot be written to '.*' \(Is a directory\)"):
        trainer.fit(FakeModule(), datamodule=make_data())


def test_nothing_is_written_into_the_current_folder_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder_of_run(make_trainer(None, [])) is None
    assert folder_of_run(make_trainer(tmp_path / "run", [])) == tmp_path / "run"


@pytest.mark.parametrize(("root", "logs"), [("s3://bucket/run", None), (".", "s3://bucket/logs"), (".", None)])
def test_an_address_is_no_folder(root, logs):
    assert folder_of_run(SimpleNamespace(default_root_dir=root, log_dir=logs)) is None


def test_the_folder_of_the_logs_is_asked_for_on_every_rank(tmp_path, monkeypatch):
    """``Trainer.log_dir`` is a broadcast, and ranks may have other current folders."""
    asked = []

    class Rank:
        default_root_dir = str(tmp_path)

        @property
        def log_dir(self):
            asked.append(self)
            return str(tmp_path / "logs")

    for folder, expected in ((tmp_path, tmp_path / "logs"), (tmp_path.parent, tmp_path)):
        monkeypatch.chdir(folder)
        assert folder_of_run(Rank()) == expected
    assert len(asked) == 2
