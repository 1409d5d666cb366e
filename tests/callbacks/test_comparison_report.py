import json
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

import dmaxlit
from dmaxlit.callbacks import ComparisonReport, DecoderSpec, SPDValidation
from dmaxlit.callbacks._known_baseline import uses_own_code
from dmaxlit.data.identity import prompts_hash
from dmaxlit.decoding import DECODERS
from dmaxlit.decoding.admission import ADMISSIONS
from dmaxlit.errors import UserError
from dmaxlit.tasks.chain import ChainTask
from tests.callbacks.comparison import MARKS, SPECS, Learner
from tests.callbacks.fakes import (
    NUM_TEST,
    FakeModule,
    events,
    examples,
    expected,
    make_data,
    make_trainer,
    text_of,
)

pytestmark = MARKS


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Return (module, callback, folder, printed) of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    module, callback = Learner(), ComparisonReport(str(folder / "out"), SPECS)
    trainer = make_trainer(folder, [callback], logger=TensorBoardLogger(folder, None, ""))
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("sys.stdout.write", printed.append, raising=False)
        trainer.fit(module, datamodule=make_data())
    return module, callback, folder, "".join(printed)


def test_results_hold_both_models_on_the_test_prompts(compared):
    module, _, folder, _ = compared
    report = json.loads((folder / "out" / "results.json").read_text())
    assert [(row["model"], row["label"]) for row in report["rows"]] == [
        ("base", "spd 0"),
        ("base", "threshold threshold=1.0"),
        ("trained", "spd 0"),
        ("trained", "threshold threshold=1.0"),
    ]
    assert (report["noise"], report["steps"], report["block_length"]) == ("on_policy", 4, 8)
    assert report["task"]["name"] == "chain"
    options = [{"tau_dec": 0.0}, {"threshold": 1.0}, {"tau_dec": 1.0}, {"threshold": 1.0}]
    for row, ran in zip(report["rows"], options, strict=True):
        figures = expected(module, "test", row["decoder"], ran)
        assert row["num_examples"] == NUM_TEST
        assert row["accuracy"] == pytest.approx(figures["accuracy"])
        assert row["tpf"] == pytest.approx(figures["tpf"])
        assert row["tpf_ceiling"] == pytest.approx(2 * row["tpf_ceiling_two"]) == pytest.approx(figures["ceiling"])
        assert row["forwards_per_answer"] == pytest.approx(figures["forwards"])


def test_the_export_knows_its_default_decoder_and_its_figures(compared):
    module, callback, folder, _ = compared
    assert module.judged_decoding is module.decoding  # so that it holds until the next fit
    exported = dmaxlit.load(folder / "out" / "model")
    best = max(result.accuracy for result in callback.trained.values())
    close = [result for result in callback.trained.values() if result.accuracy >= best - 0.01]
    chosen = max(close, key=lambda result: result.tpf)
    assert exported.decoding == {"decoder": chosen.decoder, "options": chosen.options}
    assert exported.figures["task"] == "chain"
    assert [(row["label"], row["tpf"]) for row in exported.figures["rows"]] == [
        (title, pytest.approx(result.tpf)) for title, result in callback.trained.items()
    ]
    assert "## Figures" in (folder / "out" / "model" / "README.md").read_text()


def test_the_table_is_printed_and_in_tensorboard(compared):
    _, callback, folder, printed = compared
    table, legend = text_of(events(folder), "decode/comparison")[4].rsplit("\n", 1)
    assert legend.startswith("accuracy: right answers")
    assert table in printed
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "base, spd 0",
        "base, threshold threshold=1.0",
        "trained, spd 0",
        "trained, threshold threshold=1.0",
    ]
    assert f"{callback.trained['spd 0'].tpf:.2f}" in table


def test_the_model_is_exported(compared):
    _, _, folder, _ = compared
    module = dmaxlit.load(folder / "out" / "model")
    assert (module.task_name, module.backbone.block_length) == ("chain", 8)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["model", "results.json"]


def test_the_state_of_a_checkpoint_of_release_0_1_is_read(compared):
    _, callback, _, _ = compared
    state = callback.state_dict()
    for result in state["base"].values():
        result["capped_blocks"] = result.pop("blocks_at_step_limit")
    resumed = ComparisonReport(decoders=SPECS)
    resumed.load_state_dict(state)
    assert resumed.base == callback.base


def test_results_of_some_decoders_are_not_offered_as_those_of_all(compared):
    _, callback, _, _ = compared
    state = callback.state_dict()
    for specs, identity in ((SPECS, state["identity"]), (SPECS[:1], None)):
        resumed = ComparisonReport(decoders=specs)
        resumed.load_state_dict(state)
        resumed._keep_comparable({**state["conditions"], "decoders": decoders_of(specs)})
        assert set(resumed.base) == {spec.title for spec in specs}
        assert resumed.state_dict()["identity"] == identity
    assert state["identity"]["decoders"].keys() == callback.base.keys()


def decoders_of(specs):
    return {spec.title: [spec.name, spec.options, spec.window, spec.admission, {}] for spec in specs}


def test_without_a_baseline_only_the_trained_model_decodes(tmp_path):
    module = FakeModule()
    callback = ComparisonReport(str(tmp_path / "out"), SPECS, baseline=False, num_examples=5)
    make_trainer(tmp_path, [callback], max_epochs=1).fit(module, datamodule=make_data())
    assert [call[0] for call in module.calls] == [[example.prompt for example in examples("test")[:5]]] * 2
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["trained"] * 2


def test_a_dry_run_does_nothing(tmp_path):
    module = FakeModule()
    trainer = make_trainer(tmp_path, [ComparisonReport(str(tmp_path / "out"))], fast_dev_run=True)
    trainer.fit(module, datamodule=make_data())
    assert module.calls == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_examples": 0}, "num_examples: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"decoders": []}, "decoders: expected at least one"),
        ({"decoders": [SPECS[0], SPECS[0]]}, "'spd 0' twice"),
    ],
)
def test_bad_settings_are_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        ComparisonReport(**options)


def test_what_would_fail_at_the_end_is_refused_before_training(tmp_path):
    def start(output, data):
        module = FakeModule()
        with pytest.raises(UserError) as refused:
            make_trainer(tmp_path, [ComparisonReport(str(output))]).fit(module, datamodule=data)
        assert module.calls == []
        return str(refused.value)

    (tmp_path / "file").write_text("")
    assert "output: expected a folder to write to" in start(tmp_path / "file" / "out", make_data())
    (tmp_path / "taken" / "model").mkdir(parents=True)
    (tmp_path / "taken" / "model" / "thesis.txt").write_text("")
    assert "output: expected a new folder or one written by export" in start(tmp_path / "taken", make_data())
    assert "expected test prompts" in start(tmp_path / "out", make_data(num_test=0))


def test_loaders_without_a_data_module_are_refused(tmp_path):
    loader = [{"ids": None}]
    with pytest.raises(UserError, match="expected a data module with test prompts"):
        make_trainer(tmp_path, [ComparisonReport(str(tmp_path / "out"))]).fit(FakeModule(), loader)


def test_results_keep_what_the_run_was_made_with_and_what_it_cost(compared):
    module, _, folder, _ = compared
    report = json.loads((folder / "out" / "results.json").read_text())
    assert report["settings"]["trainer.max_epochs"] == 2
    assert report["settings"]["model.seed"] == module.seed
    assert report["prompts"] == prompts_hash([example.prompt for example in examples("test")])
    assert 0 < report["cost"]["train_seconds"] < 60
    assert report["cost"]["peak_memory_mib"] > 100
    assert all(row["tpf_low"] < row["tpf"] < row["tpf_high"] for row in report["rows"])


def test_the_time_of_training_goes_on_in_a_resumed_run(compared):
    _, callback, _, _ = compared
    resumed = ComparisonReport(decoders=SPECS)
    resumed.load_state_dict(callback.state_dict() | {"seconds": 100.0})
    assert resumed.state_dict()["seconds"] == 100.0
    resumed.on_train_start(None, None)
    assert 100 < resumed.state_dict()["seconds"] < 110


class Worse(FakeModule):
    """Its only weight that changes is a counter of steps; accuracy falls with it."""

    def on_train_batch_end(self, *args):
        self.backbone.model.get_output_embeddings().weight.data.fill_(self.trainer.global_step)

    def generate_batch(self, prompts, settings, **others):
        step = float(self.backbone.model.get_output_embeddings().weight.flatten()[0])
        threshold = {"threshold": max(0.0, 1 - step / 4)} if step >= 1 else {}
        settings = replace(settings, decoder="threshold", decoder_options=settings.decoder_options | threshold)
        return super().generate_batch(prompts, settings, **others)


def test_the_best_checkpoint_is_compared_and_exported_and_the_last_weights_stay(tmp_path):
    keeper = ModelCheckpoint(tmp_path, monitor="decode/threshold/accuracy", mode="max")
    validation = SPDValidation([DecoderSpec("threshold", {"threshold": 1.0})], curve=None)
    callback = ComparisonReport(str(tmp_path / "out"), SPECS[1:], weights="best")
    module = Worse()
    trainer = make_trainer(tmp_path, [callback, validation, keeper], enable_checkpointing=True)
    trainer.fit(module, datamodule=make_data())
    assert "step=2" in keeper.best_model_path
    assert trainer.global_step == 4
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (report["steps"], report["weights"]) == (2, "best")
    assert report["rows"][1]["accuracy"] == expected(module, "test", "threshold", {"threshold": 0.5})["accuracy"]
    exported = dmaxlit.load(tmp_path / "out" / "model")
    assert exported.backbone.model.get_output_embeddings().weight.unique().tolist() == [2.0]
    assert exported.metadata()["training"]["steps"] == 2
    assert module.backbone.model.get_output_embeddings().weight.unique().tolist() == [4.0]
    assert module.weights_step() == 4


def test_a_decoder_that_no_folder_can_hold_does_not_become_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.callbacks.comparison_report.can_hold", lambda name, options: name == "threshold")
    callback = ComparisonReport(str(tmp_path / "out"), SPECS, baseline=False)
    make_trainer(tmp_path, [callback], max_epochs=1).fit(FakeModule(), datamodule=make_data())
    assert dmaxlit.load(tmp_path / "out" / "model", probe=False).decoding["decoder"] == "threshold"


class Odd(DecoderSpec):
    """A setting whose options hold what a card cannot show."""

    title = "spd separator=<"


def test_what_no_model_folder_can_hold_is_refused_before_training(tmp_path):
    module = FakeModule()
    written = {**module.metadata(), "task": {"name": "my <task>", "options": {}}}
    module.metadata = lambda: written
    with pytest.raises(UserError, match="output: task: expected an object with a name and options"):
        make_trainer(tmp_path, [ComparisonReport(str(tmp_path / "out"), SPECS)]).fit(module, datamodule=make_data())
    assert module.calls == []
    with pytest.raises(UserError, match="decoders: expected a label for options that no card can show, got"):
        ComparisonReport(decoders=[Odd("spd")])


def test_the_best_needs_a_checkpoint_that_monitors_something(tmp_path):
    callback = ComparisonReport(str(tmp_path / "out"), SPECS, weights="best")
    with pytest.raises(
        UserError, match=r"weights: expected --checkpoint\.monitor, or a ModelCheckpoint with a monitor"
    ):
        make_trainer(tmp_path, [callback]).fit(FakeModule(), datamodule=make_data())
    with pytest.raises(UserError, match="weights: expected 'last' or 'best', got 'first'"):
        ComparisonReport(weights="first")


def test_a_starting_model_that_a_run_nearby_has_decoded_with_is_not_decoded_with_again(tmp_path):
    def fit(name, specs=SPECS, **options):
        module, callback = FakeModule(), ComparisonReport(str(tmp_path / name), specs, **options)
        make_trainer(tmp_path, [callback], max_epochs=1).fit(module, datamodule=make_data())
        return module, callback

    torch.manual_seed(0)
    weights = FakeModule().state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeModule, "configure_model", lambda self: self.load_state_dict(weights))
        first, decoded = fit("first")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken/results.json").write_text("{")
        second, reused = fit("second")
        assert len(first.calls) == 2 * len(SPECS)
        assert len(second.calls) == len(SPECS)  # with the trained model
        assert reused.base == decoded.base
        identity = json.loads((tmp_path / "first/results.json").read_text())["baseline"]
        assert "stop" not in identity  # as in results of runs before there were any
        with pytest.MonkeyPatch.context() as other:
            other.setattr("dmaxlit.callbacks._known_baseline.template_hash", lambda tokenizer: "another template")
            assert len(fit("third")[0].calls) == 2 * len(SPECS)
            (tmp_path / "third/results.json").unlink()
        with pytest.MonkeyPatch.context() as other:
            other.setattr("dmaxlit.tasks.chain.ChainTask.options", lambda task: {"another": "grader"})
            assert len(fit("third")[0].calls) == 2 * len(SPECS)
            (tmp_path / "third/results.json").unlink()
        with pytest.MonkeyPatch.context() as other:
            other.setattr(ChainTask, "__module__", "my_file")
            assert len(fit("third")[0].calls) == 2 * len(SPECS)
            assert json.loads((tmp_path / "third/results.json").read_text())["baseline"] is None
            (tmp_path / "third/results.json").unlink()
        with pytest.MonkeyPatch.context() as other:
            genuine = ChainTask.examples
            other.setattr(
                ChainTask, "examples", lambda *args: [replace(one, answer="another") for one in genuine(*args)]
            )
            assert len(fit("third")[0].calls) == 2 * len(SPECS)
            (tmp_path / "third/results.json").unlink()
        with pytest.MonkeyPatch.context() as other:
            other.setattr(ChainTask, "stop", ("####",))
            stopping = fit("third")[0]
            assert len(stopping.calls) == 2 * len(SPECS)
            assert stopping.stops == {("####",)}
            assert json.loads((tmp_path / "third/results.json").read_text())["stop"] == ["####"]
            (tmp_path / "third/results.json").unlink()
        for options in ({"num_examples": 3}, {"max_new_tokens": 9}, {"batch_size": 5}, {"reuse_baseline": False}):
            assert len(fit("third", **options)[0].calls) == 2 * len(SPECS)
            (tmp_path / "third/results.json").unlink()
        assert len(fit("fourth", SPECS[:1])[0].calls) == 2
        weights["backbone.mask_vector" if "backbone.mask_vector" in weights else next(iter(weights))] += 1.0
        assert len(fit("fifth")[0].calls) == 2 * len(SPECS)


@pytest.mark.parametrize("own", [ChainTask, DECODERS.get("spd"), ADMISSIONS.get("multi_bd")])
def test_figures_that_code_of_the_user_decides_on_are_told_apart(monkeypatch, own):
    specs = [DecoderSpec("spd"), DecoderSpec("threshold", window=2, admission="multi_bd")]
    assert not uses_own_code(ChainTask(), specs)
    assert uses_own_code(None, specs)  # whoever judges there
    monkeypatch.setattr(own, "__module__", "my_file")
    assert uses_own_code(ChainTask(), specs)


def test_tensorboard_has_the_final_figures(compared):
    _, callback, folder, _ = compared
    log = events(folder)
    for name in ("accuracy", "tpf"):
        (point,) = log.Scalars(f"comparison/spd 0/{name}")
        assert (point.step, point.value) == (4, pytest.approx(getattr(callback.trained["spd 0"], name)))
