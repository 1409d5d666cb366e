import json
from pathlib import Path
from types import SimpleNamespace

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import StochasticWeightAveraging

from dmaxlit.training.callback_settings import training_settings


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
