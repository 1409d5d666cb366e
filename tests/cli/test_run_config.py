"""Where ``config.yaml`` of a run is written, and where it is not."""

from types import SimpleNamespace

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger

from dmaxlit.cli.run_config import RunConfigCallback

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")


@pytest.mark.parametrize("loggers", [[], [object()]])
@pytest.mark.parametrize(
    ("root", "logs", "expected"),
    [
        ("runs", ".", "runs/config.yaml"),  # as of WandbLogger
        ("runs", None, "runs/config.yaml"),  # of one that logs to a server
        (".", ".", None),
        (".", None, None),
        (".", "wandb", "wandb/config.yaml"),
        (".", "s3://bucket/logs", None),  # Lightning writes it
    ],
)
def test_a_logger_without_a_folder_for_each_command_leaves_it_in_that_of_the_run(
    tmp_path, monkeypatch, loggers, root, logs, expected
):
    monkeypatch.chdir(tmp_path)
    callback = RunConfigCallback(None, Namespace(config=None))
    state = SimpleNamespace(fn="fit")
    trainer = SimpleNamespace(loggers=loggers, default_root_dir=root, log_dir=logs, state=state)
    path = callback.path(trainer)
    assert (None if path is None else str(path)) == expected
    assert callback.save_to_log_dir == str(logs).startswith("s3:")


def test_a_log_with_a_folder_of_its_own_has_it_there(tmp_path):
    logger = CSVLogger(tmp_path, version=3)
    trainer = SimpleNamespace(
        loggers=[logger], default_root_dir="runs", log_dir=logger.log_dir, state=SimpleNamespace(fn="fit")
    )
    path = RunConfigCallback(None, Namespace()).path(trainer)
    assert path == tmp_path / "lightning_logs" / "version_3" / "config.yaml"


def test_a_file_that_the_command_was_given_is_not_written_over(dmax, base, tmp_path):
    (tmp_path / "runs").mkdir()
    given = base.rename(tmp_path / "runs" / "config.yaml")
    text = given.read_text()
    assert dmax("test --config runs/config.yaml --trainer.logger false").status == 0
    assert given.read_text() == text


def test_another_command_does_not_write_over_that_of_training(dmax, base, tmp_path):
    kept = tmp_path / "runs" / "config.yaml"
    assert dmax(f"test --config {base} --trainer.logger false").status == 0
    assert "num_test: 3" in kept.read_text()
    kept.write_text("of training")
    assert dmax(f"test --config {base} --trainer.logger false").status == 0
    assert kept.read_text() == "of training"
