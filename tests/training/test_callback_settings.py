import json
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import SingleDeviceStrategy

from dmaxlit import DMaxModule, UserError
from dmaxlit.training.callback_settings import check_callbacks, training_settings
from dmaxlit.training.fsdp import FSDP2Strategy
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader


class Own(Callback):
    training_options = ("betas", "folder", "dtype", "schedule")

    def __init__(self):
        self.betas, self.folder, self.dtype = (0.9, (1, 2)), Path("a"), SimpleNamespace(bits=16)
        self.schedule = object()  # whose text has its address


def test_options_are_the_same_after_they_were_stored():
    given = [{"class_path": "lightning.StochasticWeightAveraging", "init_args": {"swa_lrs": (0.1, 0.2)}}]
    settings = training_settings([Own(), StochasticWeightAveraging(0.1)], given)
    assert settings == json.loads(json.dumps(settings))
    assert settings["Own"] == {
        "betas": [0.9, [1, 2]],
        "folder": "a",
        "dtype": "namespace(bits=16)",
        "schedule": "<object object>",
    }
    assert settings["StochasticWeightAveraging"] == {"swa_lrs": [0.1, 0.2]}


def test_a_callback_that_unfreezes_weights_is_refused_before_the_first_step():
    trainer = L.Trainer(**QUIET, max_steps=1, callbacks=[BackboneFinetuning()])
    with pytest.raises(UserError, match=r"^trainer.callbacks: .* unfreezes .*, got BackboneFinetuning; "):
        trainer.fit(DMaxModule(make_denoiser()), loader())


class Data(L.LightningDataModule):
    batch_size = 4

    def train_dataloader(self):
        return loader(self.batch_size)


@pytest.mark.parametrize("kind", [BatchSizeFinder, LearningRateFinder])
def test_a_search_before_training_is_refused_unless_it_is_that_of_a_tuner(kind):
    callback = kind()
    with pytest.raises(UserError, match=rf"^trainer.callbacks: .* searches .*, got {kind.__name__}; .*Tuner"):
        L.Trainer(**QUIET, max_steps=1, callbacks=[callback]).fit(DMaxModule(make_denoiser()), Data())
    callback._early_exit = True
    check_callbacks(SimpleNamespace(callbacks=[callback], strategy=SingleDeviceStrategy()))


@pytest.mark.parametrize("callback", [EMAWeightAveraging(), StochasticWeightAveraging(0.1)])
def test_weights_are_not_averaged_where_the_model_is_sharded(callback):
    check_callbacks(SimpleNamespace(callbacks=[callback], strategy=SingleDeviceStrategy()))
    with pytest.raises(UserError, match=rf"^trainer.callbacks: .*FSDP2Strategy.*, got {type(callback).__name__}; "):
        check_callbacks(SimpleNamespace(callbacks=[callback], strategy=FSDP2Strategy()))
