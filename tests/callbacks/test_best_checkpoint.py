import json
import math
import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import dmaxlit
from dmaxlit.callbacks import ComparisonReport, DecoderSpec, RunCheckpoint, SPDValidation
from dmaxlit.callbacks._best_checkpoint import BestCheckpoint
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.errors import DMaxWarning, UserError
from tests.callbacks.fakes import LIGHTNING_WARNINGS, FakeModule, make_data, make_trainer

pytestmark = LIGHTNING_WARNINGS

SPECS = [DecoderSpec("threshold", {"threshold": 0.5})]


class Counting(FakeModule):
    """Its output weights hold the step."""

    def on_train_batch_end(self, *args):
        self.backbone.model.get_output_embeddings().weight.data.fill_(self.trainer.global_step)


class Scores(L.Callback):
    """Logs one value at each validation."""

    def __init__(self, values, tag="score"):
        self.values, self.tag = values, tag

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            pl_module.log(self.tag, self.values[trainer.current_epoch])


def keeper(folder, monitor="score", mode="max", **options):
    return RunCheckpoint(every_minutes=None, folder=str(folder), monitor=monitor, mode=mode, **options)


def fit(folder, callbacks, epochs, module=None, **options):
    """Train for epochs of one step."""
    trainer = make_trainer(folder, callbacks, max_epochs=epochs, enable_checkpointing=True)
    trainer.fit(module or Counting(), datamodule=make_data(num_train=8, num_val=2, num_test=2), **options)
    return trainer


def weight_in(path):
    return float(torch.load(path, weights_only=True)["state_dict"]["backbone.model.lm_head.weight"].flatten()[0])


@pytest.mark.parametrize(
    ("mode", "values", "step"),
    [
        ("max", [0.1, 0.3, 0.2], 2),
        ("min", [0.1, 0.3, 0.2], 1),
        ("max", [0.2, 0.2], 1),  # the earlier of two
        ("max", [math.nan, 0.1, math.inf], 2),
        ("min", [-math.inf, 0.1, math.nan], 2),
    ],
)
def test_the_state_with_the_best_value_is_kept_beside_the_last(tmp_path, mode, values, step):
    callback = keeper(tmp_path / "kept", mode=mode)
    fit(tmp_path, [callback, Scores(values)], len(values))
    assert callback.best_model_path == str(tmp_path / "kept" / "best.ckpt")
    assert weight_in(tmp_path / "kept" / "best.ckpt") == step
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["global_step"] == len(values)
    record = json.loads((tmp_path / "kept" / "best.json").read_text())
    assert record == {"monitor": "score", "mode": mode, "value": pytest.approx(values[step - 1]), "step": step}
    assert not (tmp_path / "kept" / ".best.ckpt").exists()


def test_nothing_is_the_best_if_no_decoder_is_accurate_enough(tmp_path):
    callback = keeper(tmp_path / "kept", "decode/best_tpf")
    fit(tmp_path, [callback, Scores([0.0, 0.0], "decode/best_tpf")], 2)
    assert callback.best_model_path == ""
    assert not list((tmp_path / "kept").glob("best*"))


def test_a_metric_that_is_not_logged_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(
        UserError, match=r"^checkpoint.monitor: expected a logged metric, got 'scor'; logged: "
    ) as error:
        fit(tmp_path, [keeper(tmp_path / "kept", "scor"), Scores([1.0])], 1)
    assert {"score", "train/loss"} <= set(str(error.value).partition("logged: ")[2].split(", "))


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"monitor": "score"}, "mode: expected 'min' or 'max' for monitor 'score', got none"),
        ({"monitor": "score", "mode": "high"}, "mode: expected 'min' or 'max', got 'high'"),
        ({"mode": "max"}, "mode: expected a monitor with 'max', got none"),
    ],
)
def test_a_rule_in_halves_is_refused(options, refusal):
    with pytest.raises(UserError, match=f"^{refusal}$"):
        RunCheckpoint(**options)


def test_a_resumed_run_goes_on_from_its_best_and_another_rule_forgets_it(tmp_path):
    kept = tmp_path / "kept"

    def resume(callback, values):
        fit(tmp_path, [callback, Scores(values)], len(values), ckpt_path=kept / "last.ckpt")
        return json.loads((kept / "best.json").read_text())["step"]

    fit(tmp_path, [keeper(kept), Scores([0.5, 0.1])], 2)
    assert resume(keeper(kept), [0, 0, 0.4]) == 1
    assert resume(keeper(kept), [0, 0, 0, 0.6]) == 4
    assert resume(keeper(kept, None, None), [0, 0, 0, 0, 0.9]) == 4  # left alone
    assert resume(keeper(kept, mode="min"), [0, 0, 0, 0, 0.9, 0.7]) == 6  # the validation of step 5 is repeated


def test_another_run_in_the_folder_forgets_the_best(tmp_path):
    kept = tmp_path / "kept"
    fit(tmp_path, [keeper(kept), Scores([0.5])], 1)
    fit(tmp_path, [keeper(kept, resume=False), Scores([math.nan])], 1)
    assert not list(kept.glob("best*"))


def test_a_checkpoint_of_that_name_that_another_callback_has_kept_stays(tmp_path):
    kept = tmp_path / "kept"
    fit(tmp_path, [ModelCheckpoint(kept, "best", monitor="score"), Scores([0.5])], 1)
    fit(tmp_path, [keeper(kept, None, None), Scores([0.5])], 1)
    assert weight_in(kept / "best.ckpt") == 1


def test_the_best_is_compared_exported_and_tested(tmp_path):
    callback = keeper(tmp_path / "kept")
    other = ModelCheckpoint(tmp_path / "other", monitor="score", mode="min")  # the run's own rule goes first
    report = ComparisonReport(str(tmp_path / "out"), SPECS, baseline=False, weights="best")
    trainer = fit(tmp_path, [report, other, callback, Scores([0.1, 0.9, 0.5])], 3)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["steps"] == 2
    exported = dmaxlit.load(tmp_path / "out" / "model")
    assert exported.backbone.model.get_output_embeddings().weight.unique().tolist() == [2.0]
    trainer.callbacks.remove(other)
    trainer.test(datamodule=make_data(num_test=1), ckpt_path="best", verbose=False)
    assert trainer.model.backbone.model.get_output_embeddings().weight.unique().tolist() == [2.0]


def test_early_stopping_and_checkpoints_watch_the_same_figure(tmp_path):
    validation = SPDValidation(SPECS, curve=None, min_accuracy=0.0)
    rule = {"monitor": "decode/best_tpf", "mode": "max"}
    both = [ModelCheckpoint(tmp_path / "other", **rule), EarlyStopping(**rule, patience=1)]
    trainer = fit(tmp_path, [validation, keeper(tmp_path / "kept", **rule), *both], 5)
    assert trainer.current_epoch == 2  # the answers are the same in each validation
    assert weight_in(tmp_path / "kept" / "best.ckpt") == weight_in(both[0].best_model_path) == 1


@pytest.mark.parametrize(
    ("watcher", "setting"),
    [
        (lambda monitor: RunCheckpoint(monitor=monitor, mode="max"), "checkpoint.monitor"),
        (lambda monitor: ModelCheckpoint(monitor=monitor), "trainer.callbacks.ModelCheckpoint.monitor"),
        (lambda monitor: EarlyStopping(monitor), "trainer.callbacks.EarlyStopping.monitor"),
    ],
)
@pytest.mark.parametrize("monitor", ["decode/threshold/acuracy", "decode/treshold/accuracy", "decode/best_tpf"])
def test_a_figure_that_is_not_decoded_is_refused_before_training(tmp_path, watcher, setting, monitor):
    module = Counting()
    with pytest.raises(UserError) as error:
        fit(tmp_path, [SPDValidation(SPECS, curve=None), watcher(monitor)], 1, module)
    advice = "; best_tpf needs min_accuracy of SPDValidation" if "best" in monitor else ""
    known = ", ".join(f"decode/threshold/{name}" for name in ("accuracy", "tpf", "tps", "finished", "hit_step_limit"))
    assert str(error.value) == f"{setting}: expected one of {known}, got {monitor!r}{advice}"
    assert module.calls == []


def test_figures_of_other_callbacks_may_be_watched(tmp_path):
    validation = SPDValidation(SPECS, curve=None)
    fit(tmp_path, [validation, Scores([1.0], "decode/mine"), keeper(tmp_path / "kept", "decode/mine")], 1)
    assert weight_in(tmp_path / "kept" / "best.ckpt") == 1


@pytest.mark.parametrize(
    ("monitor", "validation", "data", "changed"),
    [
        ("decode/best_tpf", {"min_accuracy": 0.0}, {}, ""),
        ("decode/best_tpf", {"min_accuracy": 0.1}, {}, "min_accuracy"),
        ("decode/threshold/tpf", {"min_accuracy": 0.1}, {}, ""),
        ("decode/threshold/tpf", {"decoders": [DecoderSpec("threshold", {"threshold": 0.9})]}, {}, "decoders"),
        ("decode/threshold/tpf", {"decoders": [*SPECS, DecoderSpec("spd")]}, {}, ""),
        ("decode/best_tpf", {"decoders": [*reversed(SPECS)]}, {}, ""),
        ("decode/threshold/tpf", {"max_new_tokens": 7}, {}, "decoders"),
        ("decode/threshold/tpf", {}, {"num_val": 3}, "num_val"),
        ("train/loss", {"decoders": [DecoderSpec("spd")]}, {"num_val": 3}, ""),
    ],
)
def test_the_best_is_replaced_where_it_was_measured_under_other_conditions(
    tmp_path, monitor, validation, data, changed
):
    files = RunFolder(tmp_path)

    def begun(origin, validation=None, data=None):
        callback = SPDValidation(**{"decoders": SPECS, "curve": None, "min_accuracy": 0.0} | (validation or {}))
        trainer = SimpleNamespace(
            callbacks=[callback],
            datamodule=make_data(**(data or {})),
            lightning_module=None,
            limit_val_batches=1.0,
            is_global_zero=True,
            callback_metrics={monitor: 0.5},
            global_step=1,
            strategy=SimpleNamespace(broadcast=lambda value: value),
        )
        best = BestCheckpoint(monitor, "max")
        best.begin(trainer, files, origin)
        return best, trainer

    def write(trainer, path, rename):
        path.touch()
        rename()

    best, trainer = begun(None)
    best.keep(trainer, files, write)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        resumed, _ = begun(files.last, validation, data)
    assert (resumed.record is None, resumed.path) == (bool(changed), str(files.best))
    place = f"checkpoint.monitor: '{files.best}' is replaced at the next validation"
    expected = f"{place}, as it was chosen under other conditions ({changed})"
    assert [str(warning.message) for warning in warned] == [expected] * bool(changed)


def test_a_best_state_of_before_whose_conditions_are_not_recorded_is_gone_on_from(tmp_path):
    kept = tmp_path / "kept"
    fit(tmp_path, [keeper(kept, "decode/threshold/tpf"), Scores([9.0], "decode/threshold/tpf")], 1)
    assert "conditions" not in json.loads((kept / "best.json").read_text())
    rules = [keeper(kept, "decode/threshold/tpf"), SPDValidation(SPECS, curve=None)]
    fit(tmp_path, rules, 2, ckpt_path=kept / "last.ckpt")
    assert json.loads((kept / "best.json").read_text())["value"] == 9.0


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"num_val": 0}, {"check_val_every_n_epoch": 2}])
def test_a_rule_without_a_validation_is_warned_of(tmp_path, options):
    data = make_data(num_train=8, num_val=options.pop("num_val", 2), num_test=2)
    trainer = make_trainer(tmp_path, [keeper(tmp_path / "kept")], max_epochs=1, enable_checkpointing=True, **options)
    expected = r"^checkpoint\.monitor: (nothing is validated, so|the run ends after 1 .* and keeps) no best state"
    with pytest.warns(DMaxWarning, match=expected):
        trainer.fit(Counting(), datamodule=data)
