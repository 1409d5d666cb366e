"""The settings of a run, as its files have them."""

import json
import math
from types import SimpleNamespace

from dmaxlit.evaluation.hyperparameters import hyperparameters_of


def test_infinite_settings_are_texts_that_every_file_can_hold():
    settings = {"trainer": {"gradient_clip_val": math.inf}, "data": {"weights": (1.5, -math.inf)}}
    found = hyperparameters_of(SimpleNamespace(hyperparameters=settings), None)
    assert found == {"trainer.gradient_clip_val": "Infinity", "data.weights": [1.5, "-Infinity"]}
    json.dumps(found, allow_nan=False)
