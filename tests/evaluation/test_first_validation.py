"""The first validation is where Lightning's loop comes to it, and the end where its loop ends."""

import math
from types import SimpleNamespace

import lightning as L
import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from dmaxlit.evaluation.first_validation import batches_of_run, batches_to_validation, has_validation

pytestmark = pytest.mark.filterwarnings("ignore")


class Count(L.Callback):
    """Counts batches up to the first validation and to the end, and notes what was predicted."""

    def __init__(self):
        self.batches, self.first, self.predicted = 0, None, None

    def on_train_start(self, trainer, pl_module):
        self.predicted = batches_to_validation(trainer), batches_of_run(trainer)

    def on_train_batch_end(self, *args):
        self.batches += 1

    def on_validation_start(self, trainer, pl_module):
        self.first = self.batches if self.first is None else self.first


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 2},
        {"max_epochs": 1, "val_check_interval": 3},
        {"max_epochs": 3, "check_val_every_n_epoch": 2, "val_check_interval": 2},
        {"max_steps": 3},
        {"max_steps": 13, "check_val_every_n_epoch": None, "val_check_interval": 7},
        {"max_steps": 5, "accumulate_grad_batches": 2},
        {"max_steps": 4, "accumulate_grad_batches": 3, "check_val_every_n_epoch": 3},
        {"max_steps": 9, "max_epochs": 1},
        {"max_steps": 4, "check_val_every_n_epoch": 2, "callbacks": [GradientAccumulationScheduler({0: 2, 1: 4})]},
        {"max_steps": 2, "limit_val_batches": 0},
    ],
)
def test_the_lengths_are_those_of_the_loops(tmp_path, options):
    count = Count()
    options = {**options, "callbacks": [count, *options.get("callbacks", [])]}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(default_root_dir=tmp_path, num_sanity_val_steps=0, **quiet, **options)
    model = BoringModel()
    rows = model.train_dataloader().dataset
    trainer.fit(model, DataLoader(rows, batch_size=len(rows) // 5), DataLoader(rows, batch_size=len(rows)))
    first, length = count.predicted
    assert length == count.batches
    if options.get("limit_val_batches") == 0:
        assert (first, count.first) == (0, None)
    elif count.first is None:
        assert first > length
    else:
        assert first == count.first


def test_without_lengths_nothing_is_predicted():
    endless = {
        "num_training_batches": math.inf,
        "accumulate_grad_batches": 2,
        "enable_validation": True,
        "callbacks": [],
    }
    endless |= {"check_val_every_n_epoch": 1, "max_epochs": -1}
    trainer = SimpleNamespace(**endless, val_check_batch=math.inf, max_steps=-1)
    assert not batches_of_run(trainer) < batches_to_validation(trainer)
    trainer = SimpleNamespace(**endless, val_check_batch=None, max_steps=3)  # by the clock
    assert not batches_of_run(trainer) < batches_to_validation(trainer)


@pytest.mark.parametrize("schedulers", [[], [GradientAccumulationScheduler({3: 4})]])
def test_steps_without_end_take_no_time_to_count(schedulers):
    trainer = SimpleNamespace(
        num_training_batches=1, accumulate_grad_batches=1, callbacks=schedulers, max_epochs=-1, max_steps=10**9
    )
    assert batches_of_run(trainer) == 10**9  # an epoch of one batch is one step


@pytest.mark.parametrize(
    ("loaders", "batches", "expected"),
    [(None, [], True), ([], [], False), ([1], [0], False), ([1, 1], [0, 2], True), ([1], [math.inf], True)],
)
def test_without_batches_there_is_no_validation(loaders, batches, expected):
    trainer = SimpleNamespace(enable_validation=True, val_dataloaders=loaders, num_val_batches=batches)
    assert has_validation(trainer) == expected
    trainer.enable_validation = False
    assert not has_validation(trainer)
