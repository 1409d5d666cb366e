"""What is written with a checkpoint; the tests of the command line interrupt and resume its runs."""

import errno
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn, TrainerState

from dmaxlit.callbacks._checkpoint_writing import _save_logs
from dmaxlit.cli.log_folders import _outliving_full_disks
from dmaxlit.errors import DMaxWarning


@pytest.mark.parametrize("of_command_line", [False, True])
def test_logs_on_a_full_disk_do_not_keep_a_checkpoint_from_being_written(tmp_path, monkeypatch, of_command_line):
    def full(logger):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CSVLogger, "save", full)
    logger, saved = CSVLogger(tmp_path, version=0), []
    trainer = SimpleNamespace(
        loggers=[logger, SimpleNamespace(save=lambda: saved.append(True))],
        state=TrainerState(fn=TrainerFn.FITTING),
        fit_loop=SimpleNamespace(total_batch_idx=3),
    )
    context = _outliving_full_disks(logger, trainer) if of_command_line else nullcontext()
    with context, pytest.warns(DMaxWarning, match=r"cannot be written \(No space left on device\)"):
        _save_logs(trainer)
    assert saved == [True]
