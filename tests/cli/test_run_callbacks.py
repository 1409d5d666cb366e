"""Checkpoints of other callbacks beside the run's own."""

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from dmaxlit import UserError
from dmaxlit.callbacks import RunCheckpoint
from dmaxlit.cli.run_callbacks import direct_checkpoints
from dmaxlit.errors import DMaxWarning

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
