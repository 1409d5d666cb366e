import json
import shutil
import statistics

import pytest
import torch

import dmaxlit
from dmaxlit import UserError
from dmaxlit.bench import DecoderBench, output_folder
from dmaxlit.bench.decoders import CURVES, Curve
from dmaxlit.bench.table_rows import TableRow, decode_rows
from dmaxlit.decoding import DECODERS, make_decoder
from dmaxlit.errors import DMaxWarning
from dmaxlit.evaluation.evaluate import evaluate
from dmaxlit.metrics import accuracy_under_parallelism
from dmaxlit.tasks import ChainTask
from tests.backbone.test_auxiliary import make_module

FEW = (Curve("threshold", "threshold", (0.9, 0.0)), Curve("spd", options={"soft": False}))
MODELS = ("base=builtin:chain-base",)


class FewDecoders(DecoderBench):
    curves = FEW


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return FewDecoders(MODELS, tmp_path_factory.mktemp("bench"), num_examples=4)


@pytest.fixture(scope="module")
def table(bench):
    return bench.run()


def test_every_decoder_is_there_at_settings_it_takes():
    assert {curve.decoder for curve in CURVES} == set(DECODERS)
    for curve in CURVES:
        for options in curve.settings():
            make_decoder(curve.decoder, **options)


@pytest.mark.slow
def test_figures_are_those_of_evaluate_and_the_table_tells_them(bench, table):
    results = json.loads((bench.output / "results.json").read_text())
    assert (bench.output / "table.md").read_text(encoding="utf-8") == table + "\n"
    module = dmaxlit.load("builtin:chain-base")
    examples = module.task().examples("test", 4)
    lines = table.splitlines()[2:]
    assert len(lines) == len(results["summary"]) == 3
    points = []
    for line, entry in zip(lines, results["summary"], strict=True):
        expected = evaluate(module, examples, entry["decoder"], entry["options"])
        assert entry["accuracy"] == [expected.accuracy, 0.0]
        assert entry["tpf"] == [expected.tpf, 0.0]
        assert entry["afp"][0] >= expected.tpf * 0.99
        assert f"| {100 * expected.accuracy:.1f} | {expected.tpf:.2f} |" in line
        points.append((expected.tpf, 100 * expected.accuracy))
    best = max(accuracy for _, accuracy in points)
    aups = [entry["aup"] for entry in results["summary"]]
    assert aups[0] == pytest.approx(accuracy_under_parallelism(points[:2], best))
    assert aups[1] is None
    assert aups[2] == pytest.approx(accuracy_under_parallelism(points[2:], best))


def test_stop_texts_of_the_task_end_answers(monkeypatch):
    stops, genuine = [], dmaxlit.DMaxModule.generate_batch

    def generate_batch(self, prompts, settings, **others):
        stops.append(tuple(settings.stop))
        return genuine(self, prompts, settings, **others)

    monkeypatch.setattr(dmaxlit.DMaxModule, "generate_batch", generate_batch)
    monkeypatch.setattr(ChainTask, "stop", ("so",))
    DecoderBench(MODELS, num_examples=2)._measure(dmaxlit.load("builtin:chain-base"), "threshold", {})
    decode_rows("builtin:chain-base", 0, [TableRow("base", "threshold", "threshold")], 2)
    assert stops == [("so",)] * 5  # with a warm-up each, and a trace


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_models_of_a_label_are_averaged(bench, table, monkeypatch, tmp_path):
    other = tmp_path / "other"
    module = dmaxlit.load("builtin:chain-base")
    with torch.no_grad():
        module.backbone.embedding[0, 0] += 1e-4
    module.export(other)
    calls, genuine = [], DecoderBench._measure

    def measure(self, module, decoder, options):
        calls.append(decoder)
        row = genuine(self, module, decoder, options)
        return {**row, "accuracy": 0.25}

    monkeypatch.setattr(DecoderBench, "_measure", measure)
    assert bench.run() == table
    assert not calls
    two = FewDecoders((*MODELS, f"base={other}"), bench.output, 4)
    first = json.loads((bench.output / "results.json").read_text())["summary"][0]["accuracy"][0]
    averaged = two.run()
    assert len(calls) == 3
    mean, deviation = 50 * (first + 0.25), 100 * statistics.stdev([first, 0.25])
    assert f"{mean:.1f} ± {deviation:.1f}" in averaged.splitlines()[2]
    assert bench.run() == table
    FewDecoders(MODELS, bench.output, 4, batch_size=3).run()
    assert len(calls) == 6


def test_rows_of_other_versions_are_kept_with_a_warning(bench, table, tmp_path, monkeypatch):
    shutil.copytree(bench.output, tmp_path / "out")
    again = FewDecoders(MODELS, tmp_path / "out", num_examples=4)
    (tmp_path / "out" / "settings.json").unlink()  # as in folders of versions that recorded none
    with pytest.warns(DMaxWarning, match="out keeps is of other versions: unrecorded ones"):
        assert again.run() == table
    shutil.copy(bench.output / "settings.json", tmp_path / "out")
    monkeypatch.setattr(output_folder, "software", lambda: {"dmaxlit": "99"})
    with pytest.warns(DMaxWarning, match=r"out keeps is of other versions: dmaxlit was '.*', now '99'"):
        assert again.run() == table


def test_a_model_with_the_same_weights_has_rows_of_its_own(tmp_path, monkeypatch):
    measured = []

    def measure(self, module, decoder, options):
        measured.append((module.backbone.block_length, module.task().options().get("operations")))
        return dict.fromkeys(
            ("accuracy", "tpf", "afp", "tau", "tau_within", "tokens_per_second", "hit_step_limit"), 1.0
        )

    monkeypatch.setattr(DecoderBench, "_measure", measure)
    monkeypatch.setattr(DecoderBench, "curves", FEW[1:])
    module = dmaxlit.load("builtin:chain-base")
    module.backbone.block_length = 16
    module.export(tmp_path / "blocks")
    module.backbone.block_length = 32
    module.set_task("chain", {"operations": 3})
    module.export(tmp_path / "task")
    models = (*MODELS, f"blocks={tmp_path / 'blocks'}", f"task={tmp_path / 'task'}")
    for _ in range(2):
        DecoderBench(models, tmp_path / "out", 2).run()
    assert measured == [(32, None), (16, None), (32, 3)]


def test_joint_decoders_are_left_out_for_models_without_an_auxiliary_model(tmp_path, monkeypatch):
    monkeypatch.setattr(DecoderBench, "curves", (FEW[1], Curve("codila")))
    module = make_module()
    module.set_task("chain", {"operations": 3})
    module.export(tmp_path / "with")
    models = (*MODELS, f"auxiliary={tmp_path / 'with'}")
    table = DecoderBench(models, tmp_path / "out", 2).run()
    rows = [line.split(" | ")[:2] for line in table.splitlines()[2:]]
    assert rows == [
        ["| base", "spd, soft False"],
        ["| auxiliary", "spd, soft False"],
        ["| auxiliary", "codila"],
    ]


@pytest.mark.parametrize("bad", ["builtin:chain-base", "=x", "x="])
def test_models_without_a_label_are_refused(bad, tmp_path):
    with pytest.raises(UserError, match=f"models: expected LABEL=MODEL, got '{bad}'"):
        DecoderBench([bad], tmp_path)


def test_a_model_that_cannot_be_decoded_is_refused_before_others_are(tmp_path, monkeypatch):
    monkeypatch.setattr(DecoderBench, "_measure", lambda *_: pytest.fail("decoded"))
    gone = str(tmp_path / "gone")
    with pytest.raises(UserError, match=r"^models: expected a model folder"):
        DecoderBench((*MODELS, f"gone={gone}"), tmp_path / "out", 2).run()
    make_module().export(tmp_path / "taskless")
    with pytest.raises(UserError, match=r"^models: expected models that know the task .*, got '.*/taskless', which"):
        DecoderBench((*MODELS, f"other={tmp_path / 'taskless'}"), tmp_path / "out", 2).run()


def test_no_models_are_refused(tmp_path):
    with pytest.raises(UserError, match="models: expected at least one, got none"):
        DecoderBench([], tmp_path)
