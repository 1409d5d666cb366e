from types import SimpleNamespace

import pytest

from dmaxlit.callbacks import RunProgressBar


@pytest.mark.parametrize(("epochs", "description"), [(-1, "Epoch 3"), (None, "Epoch 3"), (5, "Epoch 3/4")])
def test_a_last_epoch_is_named_only_if_there_is_one(epochs, description):
    bar = RunProgressBar()
    bar._trainer = SimpleNamespace(max_epochs=epochs, sanity_checking=False)
    assert bar._get_train_description(3).strip() == description
