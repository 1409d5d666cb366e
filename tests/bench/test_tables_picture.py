import pytest

from dmaxlit.bench import tables_picture
from dmaxlit.bench.tables_picture import save_curves
from dmaxlit.evaluation.evaluate import DecoderSpec

ROWS = [
    ("base", DecoderSpec("one_token", label="one token")),
    ("base", DecoderSpec("threshold", {"threshold": 0.95}, "threshold 0.95")),
    ("base", DecoderSpec("threshold", {"threshold": 0.0}, "threshold 0")),
    ("control", DecoderSpec("hierarchical", {"tau_low": 0.4}, "hierarchical 0.4", sweep="tau_low")),
]


def run(correct):
    names = ("tokens", "forwards", "blocks", "finished", "hit_step_limit")
    return {"correct": correct, **dict(zip(names, ([30, 50], [20, 20], [2, 3], [True, False], [0, 1]), strict=True))}


@pytest.fixture
def drawn(monkeypatch):
    """Return the curves that are drawn, by the name of the picture, instead of drawing them."""
    pictures = {}
    monkeypatch.setattr(tables_picture, "curve_figure", lambda curves, title: (curves, title))
    monkeypatch.setattr(tables_picture, "save_pictures", lambda figure, path: pictures.update({path.name: figure}))
    return pictures


def test_a_line_for_each_model_and_way_of_decoding_with_means_over_the_seeds(drawn, tmp_path):
    results = {(method, spec.title): {0: run([True, True]), 1: run([True, False])} for method, spec in ROWS}
    summary = [
        {"method": m, "decoder": d, "tpf": {"mean": 2.0}, "tpf_by": {"published": 1.9}, "interval": [0.5, 0.9]}
        for m, d in results
    ]
    summary[0]["interval"] = None
    save_curves(tmp_path / "curves", ROWS, results, summary, "a title")
    curves, title = drawn["curves"]
    assert title == "a title"
    assert {name: [point.threshold for point in points] for name, points in curves.items()} == {
        "base, one token": [None],
        "base, threshold": [0.95, 0.0],
        "control, hierarchical": [0.4],
    }
    (point,) = curves["control, hierarchical"]
    assert point.accuracy_interval == (0.5, 0.9)
    assert [point.accuracy_interval for point in curves["base, one token"]] == [(0.75, 0.75)]
    assert (point.result.accuracy, point.result.tpf, point.result.num_examples) == (0.75, 2.0, 4)
    assert (point.result.tpf_ceiling, point.result.finished, point.result.hit_step_limit) == (16.0, 0.5, 0.2)
