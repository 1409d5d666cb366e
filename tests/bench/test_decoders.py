import json
import statistics

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.bench import DecoderBench
from dmaxlit.bench.decoders import SETTINGS
from dmaxlit.decoding import DECODERS, make_decoder
from dmaxlit.evaluation import evaluate
from dmaxlit.metrics import accuracy_under_parallelism

FEW = {"threshold": [{"threshold": 0.9}, {"threshold": 0.0}], "spd": [{}]}
MODELS = ("base=builtin:chain-base", "twice=builtin:chain-base", "twice=builtin:chain-base")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return DecoderBench(MODELS[:1], tmp_path_factory.mktemp("bench"), num_examples=12, settings=FEW)


@pytest.fixture(scope="module")
def table(bench):
    return bench.run()


def test_every_decoder_is_there_at_settings_it_takes():
    assert set(SETTINGS) == set(DECODERS)
    for decoder, several in SETTINGS.items():
        for options in several:
            make_decoder(decoder, **options)


def test_figures_are_those_of_evaluate_and_the_table_tells_them(bench, table):
    results = json.loads((bench.output / "results.json").read_text())
    assert (bench.output / "table.md").read_text() == table + "\n"
    module = dmaxlit.load("builtin:chain-base")
    examples = module.task().examples("test", 12)
    lines = table.splitlines()[2:]
    assert len(lines) == len(results["summary"]) == 3
    points = []
    for line, entry in zip(lines, results["summary"], strict=True):
        expected = evaluate(module, examples, entry["decoder"], entry["options"])
        assert entry["accuracy"] == [expected.accuracy, 0.0]
        assert entry["tpf"] == [expected.tpf, 0.0]
        assert entry["afp"][0] >= expected.tpf * 0.99
        assert f"| {100 * expected.accuracy:.1f} | {expected.tpf:.2f} |" in line
        points.append((entry["decoder"], expected.tpf, 100 * expected.accuracy))
    best = max(accuracy for *_, accuracy in points)
    for entry in results["summary"]:
        curve = [(tpf, accuracy) for decoder, tpf, accuracy in points if decoder == entry["decoder"]]
        assert entry["aup"] == pytest.approx(accuracy_under_parallelism(curve, best))


def test_what_is_done_is_not_done_again_and_models_of_a_label_are_averaged(bench, table, monkeypatch):
    rows = json.loads((bench.output / "rows.json").read_text())
    first, *_ = rows["rows"].values()
    other = DecoderBench(("base=builtin:chain-base", "base=again"), bench.output, 12, settings=FEW)
    keys = [key.replace("base=builtin:chain-base", "base=again") for key in rows["rows"]]
    more = {
        again: {**row, "accuracy": row["accuracy"] / 2} for again, row in zip(keys, rows["rows"].values(), strict=True)
    }
    (bench.output / "rows.json").write_text(json.dumps({"num_examples": 12, "rows": rows["rows"] | more}))
    monkeypatch.setattr(DecoderBench, "_measure", lambda *_: pytest.fail("measured again"))
    averaged = other.run()
    mean, deviation = 75 * first["accuracy"], 100 * statistics.stdev([first["accuracy"], first["accuracy"] / 2])
    assert f"{mean:.1f} ± {deviation:.1f}" in averaged.splitlines()[2]
    with pytest.raises(UserError, match=r"num_examples: expected 12, as in the results in .*, got 13"):
        DecoderBench(MODELS[:1], bench.output, 13, settings=FEW).run()


@pytest.mark.parametrize("bad", ["builtin:chain-base", "=x", "x="])
def test_models_without_a_label_are_refused(bad, tmp_path):
    with pytest.raises(UserError, match=f"models: expected LABEL=MODEL, got '{bad}'"):
        DecoderBench([bad], tmp_path)
