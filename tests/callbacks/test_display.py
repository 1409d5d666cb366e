from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.progress import Progress

from dmaxlit.callbacks._display import progress_bar
from tests.callbacks.fakes import make_trainer


def fake_trainer(bar, rank=0):
    return SimpleNamespace(progress_bar_callback=bar, is_global_zero=rank == 0)


def test_a_bar_of_its_own(capsys):
    with progress_bar(fake_trainer(TQDMProgressBar()), 4, "doing things") as advance:
        advance(2)
    assert "doing things" in capsys.readouterr().err


@pytest.mark.parametrize("trainer", [fake_trainer(None), fake_trainer(TQDMProgressBar(), rank=1)])
def test_no_bar_on_other_ranks_or_when_told_so(trainer, capsys):
    with progress_bar(trainer, 4, "doing things") as advance:
        advance(2)
    assert capsys.readouterr().err == ""


def test_one_of_the_trainers_bars_while_they_are_on_the_screen(capsys):
    trainer_bar = RichProgressBar()
    with Progress() as trainer_bar.progress:
        with progress_bar(fake_trainer(trainer_bar), 4, "doing things") as advance:
            advance(3)
            (task,) = trainer_bar.progress.tasks
            assert (task.description, task.total, task.completed, task.visible) == ("doing things", 4, 3, True)
        assert not task.visible
    with progress_bar(fake_trainer(trainer_bar), 4, "after it") as advance:
        advance(1)
    assert "after it" in capsys.readouterr().err


def test_a_trainer_without_bars_draws_none(tmp_path, capsys):
    trainer = make_trainer(tmp_path, [])
    capsys.readouterr()
    with progress_bar(trainer, 4, "doing things"):
        pass
    assert "doing things" not in capsys.readouterr().err
