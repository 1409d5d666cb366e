"""Checkpoints of other callbacks beside the run's own."""

from types import SimpleNamespace

import lightning as L
import pytest
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.callbacks import ModelCheckpoint

from dmaxlit import UserError
from dmaxlit.callbacks import ComparisonReport, RunCheckpoint
from dmaxlit.cli.run_callbacks import direct_checkpoints
from dmaxlit.errors import DMaxWarning

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")

BEST = {"monitor": "score", "mode": "max"}


def directed(folder, filename, dirpath=None, **own):
    """Direct the checkpoints of a trainer; return its ModelCheckpoint."""
    other = ModelCheckpoint(dirpath, filename, save_last=True)
    callbacks = [RunCheckpoint(**own), other]
    trainer = L.Trainer(callbacks=callbacks, logger=False, accelerator="cpu", default_root_dir=folder)
    direct_checkpoints(trainer, folder)
    return other


@pytest.mark.parametrize(("filename", "own"), [("last", {}), ("previous", {}), ("best", BEST)])
@pytest.mark.parametrize("named", [False, True])
def test_a_file_of_the_run_is_not_another_callback_s(tmp_path, filename, own, named):
    dirpath = tmp_path / "x" / ".." / "checkpoints" if named else None
    refusal = rf"^trainer.callbacks: ModelCheckpoint.filename: expected none .* in '.*checkpoints', got '{filename}'; "
    with pytest.raises(UserError, match=refusal):
        directed(tmp_path, filename, dirpath, **own)


def test_other_names_and_folders_are_kept_apart(tmp_path):
    with pytest.warns(DMaxWarning, match=r"ModelCheckpoint\.save_last is left out, as last\.ckpt is the run's own"):
        assert directed(tmp_path, "{step}", **BEST).dirpath == str(tmp_path / "checkpoints")
    with pytest.warns(DMaxWarning, match="save_last"):
        assert directed(tmp_path, "best").save_last is False  # the run keeps no best state
    elsewhere = directed(tmp_path, "best", tmp_path / "other", **BEST)
    assert (elsewhere.filename, elsewhere.save_last) == ("best", True)


def test_the_command_says_so_in_one_line(dmax, base, tmp_path):
    flags = "--checkpoint.monitor train/loss --checkpoint.mode min --trainer.callbacks.ModelCheckpoint.filename best"
    refusal = dmax(f"fit --config {base} {flags}").refusal
    assert refusal.startswith(
        "trainer.callbacks: ModelCheckpoint.filename: expected none of the run's own, such as last"
    )
    assert list(tmp_path.iterdir()) == [base]


REMOTE = ("s3://bucket/run", "file:///run")


@pytest.mark.parametrize("setting", ["trainer.default_root_dir", "checkpoint.folder"])
@pytest.mark.parametrize("address", REMOTE)
def test_an_address_for_the_files_of_a_run_is_refused(dmax, base, tmp_path, setting, address):
    assert dmax(f"fit --config {base} --{setting} {address}").refusal == (
        f"{setting}: expected a folder on this machine, got {address!r}; logs alone may go there, by the save_dir of a "
        "logger"
    )
    assert list(tmp_path.iterdir()) == [base]


@pytest.mark.parametrize("address", REMOTE)
def test_in_python_too(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    logs = SimpleNamespace(log_dir=address, default_root_dir=".")
    local = SimpleNamespace(log_dir=None, default_root_dir=".")
    for callback, trainer in ((RunCheckpoint(), logs), (RunCheckpoint(folder=address), local)):
        with pytest.raises(UserError, match=f"^checkpoint.folder: expected a folder on this machine, got '{address}"):
            callback.files(trainer)
    for report, trainer in (
        (ComparisonReport(), SimpleNamespace(default_root_dir=address)),
        (ComparisonReport(address), local),
    ):
        with pytest.raises(UserError, match=f"^output: expected a folder on this machine, got '{address}'$"):
            report._check_output(trainer)


def test_answers_are_not_written_to_an_address_where_a_test_leaves_its_configuration(dmax, base, tmp_path):
    flags = f"--config {base} --trainer.logger false --trainer.default_root_dir memory://run"
    assert dmax(f"predict {flags}").refusal == (
        "trainer.default_root_dir: expected a folder on this machine, got 'memory://run'; --output names a file of "
        "answers"
    )
    assert dmax(f"test {flags}").status == 0
    assert get_filesystem("memory://run").exists("run/config.yaml")
    assert list(tmp_path.iterdir()) == [base]
