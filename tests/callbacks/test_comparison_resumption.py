import json
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from dmaxlit.callbacks import ComparisonReport
from dmaxlit.tasks import ChainTask
from tests.callbacks.comparison import MARKS, SPECS, Learner
from tests.callbacks.fakes import FakeModule, make_data, make_trainer

pytestmark = MARKS

CHANGES = [
    ({"num_examples": 3}, {}),
    ({"max_new_tokens": 9}, {}),
    ({"batch_size": 5}, {}),
    ({"decoders": [replace(spec, window=2) for spec in SPECS]}, {}),
    ({}, {"num_test": 5}),
]


def test_a_resumed_run_compares_with_where_the_first_started(tmp_path):
    def fit(epochs, ckpt_path=None):
        module = Learner()
        callback = ComparisonReport(str(tmp_path / "out"), SPECS)
        keeper = ModelCheckpoint(tmp_path, save_last=True)
        trainer = make_trainer(tmp_path, [callback, keeper], max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(module, datamodule=make_data(), ckpt_path=ckpt_path, weights_only=True)
        return callback, module

    first, _ = fit(1)
    second, module = fit(2, tmp_path / "last.ckpt")
    assert {title: result.to_dict() for title, result in second.base.items()} == {
        title: result.to_dict() for title, result in first.base.items()
    }
    assert len(module.calls) == len(SPECS)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["base", "base", "trained", "trained"]


def test_a_second_run_compares_with_where_it_started_itself(tmp_path):
    callback = ComparisonReport(str(tmp_path / "out"), SPECS, reuse_baseline=False)
    for module in (FakeModule(), Learner()):
        make_trainer(tmp_path, [callback], max_epochs=1).fit(module, datamodule=make_data())
        assert len(module.calls) == 2 * len(SPECS)
        assert callback._seconds < 1000
        callback._seconds += 1000


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Return the checkpoint of a run's first epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    callbacks = [ComparisonReport(str(folder / "out"), SPECS), ModelCheckpoint(folder, save_last=True)]
    trainer = make_trainer(folder, callbacks, max_epochs=1, enable_checkpointing=True)
    trainer.fit(FakeModule(), datamodule=make_data())
    return folder / "last.ckpt"


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(("options", "data"), CHANGES)
def test_results_from_other_prompts_or_settings_are_not_compared(interrupted, tmp_path, options, data, is_old):
    checkpoint = torch.load(interrupted, weights_only=True)
    (state,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("ComparisonReport"))
    if is_old:
        del state["conditions"], state["identity"]["task"], state["identity"]["chat_template"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    callback = ComparisonReport(str(tmp_path / "out"), **{"decoders": SPECS, **options})
    keeper = ModelCheckpoint(tmp_path)
    trainer = make_trainer(tmp_path, [callback, keeper], enable_checkpointing=True)
    with pytest.warns(UserWarning, match="no results of the starting model for spd 0, threshold"):
        trainer.fit(FakeModule(), datamodule=make_data(**data), ckpt_path=tmp_path / "old.ckpt", weights_only=True)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["trained"] * 2


def test_results_got_without_the_stop_texts_of_now_are_not_compared(interrupted, tmp_path, monkeypatch):
    checkpoint = torch.load(interrupted, weights_only=True)
    (state,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("ComparisonReport"))
    del state["conditions"]["stop"]  # as in checkpoints of runs before there were any
    torch.save(checkpoint, tmp_path / "old.ckpt")

    def resume():
        callback = ComparisonReport(str(tmp_path / "out"), SPECS)
        trainer = make_trainer(tmp_path, [callback, ModelCheckpoint(tmp_path)], enable_checkpointing=True)
        trainer.fit(FakeModule(), datamodule=make_data(), ckpt_path=tmp_path / "old.ckpt", weights_only=True)
        return callback

    assert len(resume().base) == len(SPECS)
    monkeypatch.setattr(ChainTask, "stop", ("####",))
    with pytest.warns(UserWarning, match="no results of the starting model for spd 0, threshold"):
        assert resume().base == {}


def test_resumed_from_a_run_without_the_report_there_is_no_base(tmp_path):
    keeper = ModelCheckpoint(tmp_path, save_last=True)
    trainer = make_trainer(tmp_path, [keeper], max_epochs=1, enable_checkpointing=True)
    trainer.fit(FakeModule(), datamodule=make_data())
    callback = ComparisonReport(str(tmp_path / "out"), SPECS)
    trainer = make_trainer(tmp_path, [callback, ModelCheckpoint(tmp_path)], enable_checkpointing=True)
    with pytest.warns(UserWarning, match="no results of the starting model for spd 0, threshold"):
        trainer.fit(Learner(), datamodule=make_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert callback.base == {}
    assert set(callback.trained) == {"spd 0", "threshold threshold=1.0"}
