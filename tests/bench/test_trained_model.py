from pathlib import Path

import pytest

from dmaxlit import UserError
from dmaxlit.bench import trained_model as file
from dmaxlit.bench.trained_model import trained_model, training_seconds

RECIPE = Path("recipe.yaml")


@pytest.fixture
def fits(monkeypatch):
    """Record the calls of ``fit`` instead of training; each one counts as a second of CPU time."""
    calls = []

    def fit(*arguments):
        calls.append(arguments)
        if "fails" in arguments:
            raise UserError("fit failed")
        return arguments[1]

    monkeypatch.setattr(file, "fit", fit)
    monkeypatch.setattr(file, "checkpoint_to_folder", lambda checkpoint, folder: folder.mkdir())
    monkeypatch.setattr(file, "_seconds_of_children", lambda: float(len(calls)))
    return calls


def test_a_model_is_trained_once(tmp_path, fits):
    folder = tmp_path / "run"
    assert training_seconds(folder) is None
    assert trained_model(folder, RECIPE, 3, "--a=1") == trained_model(folder, RECIPE, 3) == str(folder / "model")
    assert fits == [(RECIPE, folder, 3, "--a=1")]
    assert training_seconds(folder) == 1


def test_the_time_of_an_interrupted_training_counts(tmp_path, fits):
    with pytest.raises(UserError, match="fit failed"):
        trained_model(tmp_path, RECIPE, 0, "fails")
    assert not (tmp_path / "model").exists()
    trained_model(tmp_path, RECIPE, 0)
    assert training_seconds(tmp_path) == 2
