"""RunCheckpoint in Python; the tests of the command line interrupt and resume its runs."""

import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, GradientAccumulationScheduler

from dmaxlit import UserError
from dmaxlit.callbacks import RunCheckpoint
from tests.callbacks.fakes import LIGHTNING_WARNINGS, FakeModule, make_data, make_trainer

pytestmark = LIGHTNING_WARNINGS


def trainer_of(folder, steps, callback=None, **options):
    callbacks = [callback or RunCheckpoint(every_n_steps=1, **options)]
    limits = {"max_epochs": -1, "max_steps": steps, "limit_val_batches": 0, "enable_checkpointing": True}
    return make_trainer(folder, callbacks, **limits)


def fit(folder, steps, ckpt_path=None, **options):
    trainer_of(folder, steps, **options).fit(FakeModule(), datamodule=make_data(), ckpt_path=ckpt_path)


def kept(folder):
    """Return the step of each checkpoint, and whether the run is finished."""
    files = folder / "checkpoints"
    steps = {path.stem: torch.load(path, weights_only=True)["global_step"] for path in files.glob("*.ckpt")}
    return steps, (files / "finished.json").exists()


def test_checkpoints_that_a_run_does_not_go_on_from_are_not_replaced(tmp_path):
    fit(tmp_path / "a", 3)
    fit(tmp_path / "b", 1)
    before = {"last": 3, "previous": 2}, True
    assert kept(tmp_path / "a") == before
    other = tmp_path / "b" / "checkpoints" / "last.ckpt"
    for origin, got in ((None, "none"), (other, repr(str(other)))):
        with pytest.raises(UserError) as refusal:
            fit(tmp_path / "a", 2, origin)
        assert str(refusal.value) == (
            f"ckpt_path: expected a checkpoint in {str(tmp_path / 'a' / 'checkpoints')!r} to go on from, as those "
            f"there would be replaced, got {got}; `dmaxlit fit` without --ckpt_path goes on from them, another "
            "default_root_dir keeps them, RunCheckpoint(resume=False) or --checkpoint.resume false replaces them"
        )
        assert kept(tmp_path / "a") == before


def test_a_checkpoint_of_a_scheduler_in_the_run_s_folder_is_its_own(tmp_path):
    fit(tmp_path, 2)
    own = tmp_path / "hpc_ckpt_1.ckpt"
    (tmp_path / "checkpoints" / "last.ckpt").rename(own)
    fit(tmp_path, 3, own)
    assert kept(tmp_path)[0]["last"] == 3


def test_a_run_goes_on_from_its_checkpoint_or_replaces_it_if_asked(tmp_path):
    fit(tmp_path, 2)
    fit(tmp_path, 4, tmp_path / "checkpoints" / "last.ckpt")
    assert kept(tmp_path) == ({"last": 4, "previous": 3}, True)
    fit(tmp_path, 1, resume=False)
    assert kept(tmp_path) == ({"last": 1}, True)


def test_a_trainer_may_go_on_with_its_own_run(tmp_path):
    trainer, module = trainer_of(tmp_path, 1), FakeModule()
    trainer.fit(module, datamodule=make_data())
    trainer.fit_loop.epoch_loop.max_steps = 2
    trainer.fit(module, datamodule=make_data())
    assert kept(tmp_path)[0]["last"] == 2


def test_a_callback_of_two_trainers_writes_to_the_folder_of_each(tmp_path):
    callback = RunCheckpoint()
    for name, steps in (("a", 1), ("b", 2)):
        trainer_of(tmp_path / name, steps, callback).fit(FakeModule(), datamodule=make_data())
    assert [kept(tmp_path / name)[0]["last"] for name in ("a", "b")] == [1, 2]


@pytest.mark.parametrize("stops", [(2,), (5,), (6, 7)], ids=["in an epoch", "at its end", "in another, twice"])
def test_a_run_whose_accumulation_is_scheduled_goes_on_as_if_it_had_not_been_interrupted(tmp_path, stops):
    def ended(folder, *steps):
        path = folder / "checkpoints" / "last.ckpt"
        for begun, step in enumerate(steps):
            callbacks = [RunCheckpoint(every_n_steps=1), GradientAccumulationScheduler({0: 2, 1: 3})]
            limits = {"max_epochs": -1, "max_steps": step, "limit_val_batches": 0, "enable_checkpointing": True}
            data = make_data(num_train=40, batch_size=4)  # of epoch 0, five steps of two; of the others, 3 + 3 + 3 + 1
            trainer = make_trainer(folder, callbacks, **limits)
            trainer.fit(FakeModule(), datamodule=data, ckpt_path=path if begun else None)
        return torch.load(path, weights_only=True)

    whole, parts = ended(tmp_path / "whole", 10), ended(tmp_path / "parts", *stops, 10)
    batches = "epoch_loop.batch_progress"
    assert parts["loops"]["fit_loop"][batches] == whole["loops"]["fit_loop"][batches]
    for name, weight in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], weight), name


class StopInValidation(L.Callback):
    """Sends SIGTERM while the first batch of a validation is decoded."""

    def on_validation_batch_start(self, trainer, *args):
        if not trainer.sanity_checking:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_a_run_of_averaged_weights_that_is_stopped_in_validation_goes_on_as_if_it_had_not_been(tmp_path):
    def ended(folder, *others, ckpt_path=None):
        checkpoint = RunCheckpoint(every_minutes=None, every_n_steps=None)
        callbacks = [EMAWeightAveraging(decay=0.6), *others, checkpoint]
        trainer = make_trainer(folder, callbacks, num_sanity_val_steps=0, enable_checkpointing=True)
        trainer.fit(FakeModule(), datamodule=make_data(), ckpt_path=ckpt_path)

    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    with pytest.raises(SystemExit):
        ended(last.parents[1], StopInValidation())
    assert torch.load(last, weights_only=True)["global_step"] == 2
    ended(last.parents[1], ckpt_path=last)
    ended(tmp_path / "whole")
    parts, whole = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("parts", "whole")
    )
    for state in ("current_model_state", "state_dict"):
        for name, weight in whole[state].items():
            assert torch.equal(parts[state][name], weight), (state, name)
