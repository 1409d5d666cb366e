import json
import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from dmaxlit import DMaxModule
from dmaxlit.callbacks import DecoderSpec, RunCheckpoint, SPDValidation
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.tasks import ChainTask
from tests.callbacks import ranks_run
from tests.callbacks.fakes import (
    LIGHTNING_WARNINGS,
    NUM_TEST,
    NUM_VAL,
    FakeModule,
    events,
    examples,
    expected,
    make_data,
    make_trainer,
    text_of,
)
from tests.conftest import make_denoiser

pytestmark = LIGHTNING_WARNINGS

NAMES = ("accuracy", "tpf", "finished", "hit_step_limit")
DEFAULT = {"spd": {"tau_dec": 0.5}, "threshold": {"threshold": 0.95}}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Train for two epochs with TensorBoard; return module, trainer, callback and events."""
    folder = tmp_path_factory.mktemp("run")
    module, callback = FakeModule(), SPDValidation(curve=[0.0, 0.5, 1.0], num_samples=3)
    trainer = make_trainer(folder, [callback], logger=TensorBoardLogger(folder, name=None, version=""))
    trainer.fit(module, datamodule=make_data())
    return module, trainer, callback, events(folder)


def test_tensorboard_holds_every_metric_of_each_epoch(fitted):
    module, _, _, log = fitted
    for label, options in DEFAULT.items():
        figures = expected(module, "val", label, options)
        for name in NAMES:
            points = log.Scalars(f"decode/{label}/{name}")
            assert [point.step for point in points] == [1, 3]
            assert [point.value for point in points] == pytest.approx([figures[name]] * 2)
        assert all(point.value > 0 for point in log.Scalars(f"decode/{label}/tps"))


def test_a_text_says_which_options_a_label_has_and_what_its_figures_are(fitted):
    ((step, text),) = text_of(fitted[3], "decode/decoders").items()
    assert step == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2:] == [["decode/spd/...", "spd tau_dec=0.5"], ["decode/threshold/...", "threshold threshold=0.95"]]
    assert all(f"{name}: " in text.splitlines()[-1] for name in ("accuracy", "tpf", "tps", "finished"))
    assert "best_tpf" not in text


def test_samples_show_prompt_answer_verdict_and_forwards(fitted):
    module, _, _, log = fitted
    samples = text_of(log, "decode/spd/samples")
    assert sorted(samples) == [2, 4]
    head, first, *others = samples[4].split("\n\n---\n\n")
    assert len(others) == 2
    example = examples("val")[0]
    answer = module.generate([example.prompt], "spd", tau_dec=0.5)[0]
    assert f"    {example.prompt}" in first
    assert f"    {answer.text}" in first
    assert f"{answer.num_tokens} tokens in {answer.num_forwards} forwards" in first
    assert first.startswith("✔ right" if example.check(answer.text) else "✘ **wrong**")
    assert head.startswith("**spd tau_dec=0.5** · ")
    assert "TPF: tokens per forward" in head


def test_the_curve_is_drawn_once_at_the_end(fitted):
    module, _, callback, log = fitted
    (image,) = log.Images("decode/curve")
    assert image.step == 4
    assert (image.width, image.height) == (800, 500)
    assert len(image.encoded_image_string) > 10_000
    assert {label: [point.threshold for point in line] for label, line in callback.curves.items()} == {
        "spd": [0.0, 0.5, 1.0],
        "threshold": [0.0, 0.5, 1.0],
    }
    for label, option in (("spd", "tau_dec"), ("threshold", "threshold")):
        for point in callback.curves[label]:
            figures = expected(module, "val", label, {option: point.threshold})
            assert point.result.accuracy == pytest.approx(figures["accuracy"])
            assert point.result.tpf == pytest.approx(figures["tpf"])
            assert point.result.tpf_ceiling == pytest.approx(figures["ceiling"])
            assert point.result.num_examples == NUM_VAL
    assert "| spd 0.5 " in text_of(log, "decode/curve")[4]


def test_curve_points_are_json(fitted):
    points = json.loads(json.dumps(fitted[2].curve_points()))
    assert [(point["label"], point["threshold"]) for point in points][:3] == [("spd", 0.0), ("spd", 0.5), ("spd", 1.0)]
    assert {"accuracy", "tpf", "accuracy_low", "accuracy_high"} <= set(points[0])


def test_checkpoints_can_watch_it(tmp_path):
    keeper = ModelCheckpoint(tmp_path / "best", monitor="decode/spd/accuracy", mode="max", filename="{epoch}")
    module = FakeModule()
    trainer = make_trainer(tmp_path, [SPDValidation(curve=None), keeper], enable_checkpointing=True)
    trainer.fit(module, datamodule=make_data())
    accuracy = expected(module, "val", "spd", DEFAULT["spd"])["accuracy"]
    assert float(keeper.best_model_score) == pytest.approx(accuracy)
    assert float(trainer.callback_metrics["decode/spd/accuracy"]) == pytest.approx(accuracy)


def test_works_without_a_logger_and_with_several(tmp_path):
    for name, logger in {
        "none": False,
        "csv": CSVLogger(tmp_path / "csv", name=None, version=""),
        "both": [CSVLogger(tmp_path / "both", name=None, version=""), TensorBoardLogger(tmp_path / "both", None, "")],
    }.items():
        callback = SPDValidation(curve=[0.5])
        trainer = make_trainer(tmp_path / name, [callback], logger=logger, max_epochs=1)
        trainer.fit(FakeModule(), datamodule=make_data())
        assert callback.results["spd"].num_examples == NUM_VAL
        assert len(callback.curve_points()) == 2
    assert "decode/spd/tpf" in (tmp_path / "csv" / "metrics.csv").read_text()
    assert "decode/spd/tpf" in events(tmp_path / "both").Tags()["scalars"]


def test_nothing_is_decoded_in_the_sanity_check(tmp_path):
    module = FakeModule()
    trainer = make_trainer(tmp_path, [SPDValidation(curve=None)], max_epochs=1, num_sanity_val_steps=2)
    trainer.fit(module, datamodule=make_data())
    decoded = [prompt for prompts, decoder, *_ in module.calls if decoder == "spd" for prompt in prompts]
    assert decoded == [example.prompt for example in examples("val")]


def test_a_run_that_ends_before_its_first_validation_is_warned_of(tmp_path):
    callback = SPDValidation(curve=[0.5])
    with pytest.warns(DMaxWarning, match="ends after 1 training batches, before the first validation after 2, and dec"):
        make_trainer(tmp_path, [callback], max_steps=1).fit(FakeModule(), datamodule=make_data())
    assert callback.curve_points() == []


def test_a_stream_has_no_number_of_batches_after_which_validation_comes(tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.evaluation.first_validation.batches_to_validation", lambda trainer: math.inf)
    with pytest.warns(DMaxWarning, match="validation follows a whole epoch, .* set --trainer.val_check_interval to"):
        make_trainer(tmp_path, [SPDValidation(curve=None)], max_steps=1).fit(FakeModule(), datamodule=make_data())


def points_without_times(callback):
    timed = ("seconds", "tps", "tokens_per_second")
    return [{name: value for name, value in point.items() if name not in timed} for point in callback.curve_points()]


@pytest.fixture
def unpictured(monkeypatch):
    """Leave out the pictures of curves: to draw them takes longer than to decode a few prompts."""
    for module in ("spd_validation", "_curve_files"):
        monkeypatch.setattr(f"dmaxlit.callbacks.{module}.draw_curve", lambda *_: None)
    monkeypatch.setattr("dmaxlit.callbacks._curve_files.save_pictures", lambda *_: None)


@pytest.mark.usefixtures("unpictured")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(("limit", "count"), [(1.0, NUM_VAL), (2, 8), (0.4, 4)])
def test_the_curve_is_drawn_also_where_the_last_validation_was_before_an_interruption(tmp_path, limit, count):
    def fit(name, steps, ckpt_path=None):
        callbacks = [SPDValidation(curve=[0.5]), ModelCheckpoint(tmp_path / name, save_last=True)]
        options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": limit}
        options |= {"max_epochs": -1, "max_steps": steps, "enable_checkpointing": True}
        trainer = make_trainer(tmp_path / name, callbacks, **options)
        trainer.fit(FakeModule(), datamodule=make_data(), ckpt_path=ckpt_path, weights_only=True)
        return callbacks[0]

    straight = fit("straight", 3)
    fit("stopped", 2)
    resumed = fit("resumed", 3, tmp_path / "stopped" / "last.ckpt")
    assert not resumed.results  # it made no validation
    assert resumed.curves["spd"][0].result.num_examples == count
    assert points_without_times(resumed) == points_without_times(straight)
    assert json.loads((tmp_path / "resumed" / "curve.json").read_text())["steps"] == 3


class Killed(L.Callback):
    def on_train_end(self, *args):
        raise RuntimeError("killed")


@pytest.mark.usefixtures("unpictured")
def test_the_curve_is_drawn_also_where_a_process_was_killed_after_its_last_step(tmp_path):
    def fit(more, ckpt_path=None):
        callback = SPDValidation(curve=[0.5])
        options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "enable_checkpointing": True}
        options |= {"max_epochs": -1, "max_steps": 3}
        trainer = make_trainer(tmp_path, [callback, RunCheckpoint(), *more], **options)
        trainer.fit(FakeModule(), datamodule=make_data(), ckpt_path=ckpt_path)
        return callback

    with pytest.raises(RuntimeError, match="killed"):
        fit([Killed()])
    callback = fit([], tmp_path / "checkpoints" / "last.ckpt")
    assert not callback.results
    assert callback.curves["spd"][0].result.num_examples == NUM_VAL


@pytest.mark.usefixtures("unpictured")
def test_a_second_run_draws_no_curve_of_the_first_ones_prompts(tmp_path):
    callback = SPDValidation(curve=[0.5])
    make_trainer(tmp_path, [callback], max_epochs=1).fit(FakeModule(), datamodule=make_data())
    with pytest.warns(DMaxWarning, match="before the first validation"):
        make_trainer(tmp_path, [callback], max_steps=1).fit(FakeModule(), datamodule=make_data())
    assert (callback.curve_points(), callback.results) == ([], {})


def test_without_prompts_there_is_no_curve(tmp_path):
    callback = SPDValidation(curve=[0.5])
    trainer = make_trainer(tmp_path, [callback], max_epochs=1)
    callback.on_validation_epoch_start(trainer, FakeModule())  # of an epoch without a batch
    trainer.fit(FakeModule(), datamodule=make_data(num_val=0))
    assert callback.curve_points() == []


def test_training_goes_on_in_train_mode_and_as_if_nothing_had_been_decoded(tmp_path):
    def weights(callbacks):
        module = FakeModule()
        module.train()
        make_trainer(tmp_path, callbacks).fit(module, datamodule=make_data())
        assert all(submodule.training for submodule in module.modules())
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    assert torch.equal(weights([SPDValidation(curve=[0.5])]), weights([]))


def test_validate_and_test_return_the_metrics(tmp_path):
    module, data = FakeModule(), make_data()
    trainer = make_trainer(tmp_path, [SPDValidation(curve=None)])
    (validated,) = trainer.validate(module, data, verbose=False)
    (tested,) = trainer.test(module, data, verbose=False)
    assert validated["decode/spd/accuracy"] == pytest.approx(expected(module, "val", "spd", DEFAULT["spd"])["accuracy"])
    assert tested["test/spd/accuracy"] == pytest.approx(expected(module, "test", "spd", DEFAULT["spd"])["accuracy"])
    assert not any(tag.startswith("decode/") for tag in tested)


def test_the_curve_is_drawn_in_test_too(tmp_path):
    callback = SPDValidation(curve=[0.5])
    trainer = make_trainer(tmp_path, [callback], logger=TensorBoardLogger(tmp_path, None, ""))
    trainer.test(FakeModule(), make_data(), verbose=False)
    assert events(tmp_path).Tags()["images"] == ["test/curve"]
    assert callback.curves["spd"][0].result.num_examples == NUM_TEST


def test_the_curve_takes_no_more_prompts_than_told(tmp_path):
    callback = SPDValidation(curve=[0.5], curve_examples=5)
    make_trainer(tmp_path, [callback], max_epochs=1).fit(FakeModule(), datamodule=make_data())
    assert callback.curves["spd"][0].result.num_examples == 5


def test_the_budget_is_the_tasks_unless_given(tmp_path):
    for max_new_tokens, budget in ((None, make_data().task.max_new_tokens), (7, 7)):
        module = FakeModule()
        callback = SPDValidation(curve=None, max_new_tokens=max_new_tokens, batch_size=3)
        make_trainer(tmp_path, [callback]).validate(module, make_data(), verbose=False)
        assert {call[3:] for call in module.calls} == {(budget, 3)}


def test_the_stop_texts_are_the_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(ChainTask, "stop", ("####",))
    module = FakeModule()
    callback = SPDValidation(curve=[0.5], max_new_tokens=7, num_traces=0)
    make_trainer(tmp_path, [callback]).test(module, make_data(), verbose=False)
    assert module.stops == {("####",)}


def test_a_decoder_without_a_threshold_is_one_point(tmp_path):
    callback = SPDValidation([DecoderSpec("uniform"), DecoderSpec("spd")], curve=[0.0, 1.0])
    make_trainer(tmp_path, [callback], max_epochs=1).fit(FakeModule(), datamodule=make_data())
    assert [point.threshold for point in callback.curves["uniform"]] == [None]
    assert len(callback.curves["spd"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curve": [0.5, 1.5]}, r"tau_dec: expected a number in \[0, 1\], got 1.5"),
        ({"decoders": []}, "decoders: expected at least one"),
        ({"decoders": [DecoderSpec("spd"), DecoderSpec("spd", {"tau_dec": 0.0})]}, "'spd' twice"),
        ({"decoders": [DecoderSpec("spd", {}, label) for label in ("a 0", "a-0")]}, "got 'a 0' and 'a-0'"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"num_samples": -1}, "num_samples: expected at least 0, got -1"),
        ({"num_traces": -1}, "num_traces: expected at least 0, got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        ({"curve_examples": 0}, "curve_examples: expected at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        SPDValidation(**options)


def test_batches_without_examples_are_refused(tmp_path):
    loader = torch.utils.data.DataLoader([{"ids": torch.zeros(2)}])
    with pytest.raises(UserError, match="expected batches with examples to decode, got a batch of ids"):
        make_trainer(tmp_path, [SPDValidation()]).validate(FakeModule(), loader, verbose=False)


@pytest.mark.slow
def test_two_ranks_together_log_what_one_does(processes, tmp_path):
    output = tmp_path / "counted.json"
    args = [2, tmp_path / "two", output]
    codes = processes.run(args, tmp_path / "log", module="tests.callbacks.ranks_run", ranks=2)
    assert codes == [0, 0], (tmp_path / "log.0").read_text()[-2000:]
    one, two = ranks_run.run(1, tmp_path / "one"), json.loads(output.read_text())
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert (one["decoded"], two["decoded"]) == (NUM_VAL, (NUM_VAL + 1) // 2)
    for key in ("metrics", "curve", "base", "trained"):
        assert two[key] == pytest.approx(one[key]), key


def test_traces_are_drawn_at_each_validation_if_asked_for(tmp_path):
    module = DMaxModule(make_denoiser(max_position_embeddings=64))
    callback = SPDValidation(curve=None, num_traces=2, max_new_tokens=8, decoders=[DecoderSpec("spd")])
    trainer = make_trainer(tmp_path, [callback], logger=TensorBoardLogger(tmp_path, name=None, version=""))
    trainer.fit(module, datamodule=make_data())
    images = events(tmp_path).Images("decode/spd/trace")
    assert [image.step for image in images] == [2, 4]
    assert {(image.width, image.height) for image in images} == {(1000, 680)}
    assert "decode/spd/accuracy" in trainer.callback_metrics


def test_no_trace_is_drawn_by_default(fitted):
    assert [tag for tag in fitted[3].Tags()["images"] if "trace" in tag] == []


def test_the_highest_tpf_of_those_accurate_enough_is_a_metric(tmp_path):
    decoders = [DecoderSpec("spd", {"tau_dec": t}, f"spd {t}") for t in (0.0, 0.5, 1.0)]
    figures = [expected(FakeModule(), "val", "spd", spec.options) for spec in decoders]
    for least, best in (
        (0.0, max(f["tpf"] for f in figures)),
        (figures[1]["accuracy"], max(f["tpf"] for f in figures if f["accuracy"] >= figures[1]["accuracy"])),
        (1.0, max([f["tpf"] for f in figures if f["accuracy"] == 1.0], default=0.0)),
    ):
        callback = SPDValidation(decoders, curve=None, min_accuracy=least)
        trainer = make_trainer(tmp_path, [callback], max_epochs=1)
        trainer.fit(FakeModule(), datamodule=make_data())
        assert float(trainer.callback_metrics["decode/best_tpf"]) == pytest.approx(best)
    assert callback._best_tpf(1.1) == 0.0
    with pytest.raises(UserError, match=r"min_accuracy: expected a number in \[0, 1\], got 90"):
        SPDValidation(min_accuracy=90)


def test_early_stopping_may_watch_it(tmp_path):
    decoder = [DecoderSpec("spd", {"tau_dec": 0.5})]
    callbacks = [
        SPDValidation(decoder, curve=None, min_accuracy=0.0),
        EarlyStopping("decode/best_tpf", mode="max", patience=1),
    ]
    trainer = make_trainer(tmp_path, callbacks, max_epochs=9)
    trainer.fit(FakeModule(), datamodule=make_data())
    assert trainer.current_epoch == 2  # the second epoch brings nothing new
