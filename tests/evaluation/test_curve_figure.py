import numpy as np
import pytest

from dmaxlit.evaluation.curve_figure import CurvePoint, curve_figure, curve_table
from dmaxlit.evaluation.results import DecodeResult


def result(accuracy, tpf, ceiling=20.0):
    return DecodeResult(
        decoder="spd",
        options={},
        num_examples=100,
        accuracy=accuracy,
        tpf=tpf,
        tpf_published=tpf,
        tpf_ceiling=ceiling,
        forwards_per_answer=60 / tpf,
        tokens_per_second=1.0,
        finished=1.0,
        blocks_at_step_limit=0,
        blocks=300,
        seconds=1.0,
    )


@pytest.fixture
def curves():
    return {
        "spd": [CurvePoint(t, result(a, f)) for t, a, f in [(0.0, 0.97, 5.0), (0.5, 0.99, 4.9), (0.9, 1.0, 4.8)]],
        "threshold": [CurvePoint(t, result(a, f)) for t, a, f in [(0.0, 0.1, 20.0), (0.95, 0.98, 2.0)]],
        "uniform": [CurvePoint(None, result(0.9, 4.0))],
    }


def test_one_named_line_a_decoder_with_its_points(curves):
    axes = curve_figure(curves, "a title").axes[0]
    lines = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    assert list(lines) == ["spd", "threshold", "uniform"]
    assert lines["spd"].get_xydata().tolist() == [[5.0, 97.0], [4.9, 99.0], [4.8, 100.0]]
    assert len({line.get_color() for line in lines.values()}) == 3


def test_axes_are_labelled_and_show_everything(curves):
    axes = curve_figure(curves, "a title").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tokens per forward (TPF)", "accuracy %")
    assert axes.get_title() == "a title"
    assert axes.get_xlim()[0] < 1.0
    assert axes.get_xlim()[1] > 20.0
    assert axes.get_ylim()[0] < 0 < 100 < axes.get_ylim()[1]


def test_ceilings_are_those_of_the_most_accurate_answers(curves):
    curves["threshold"][0] = CurvePoint(0.0, result(0.1, 7.0, ceiling=30.0))
    axes = curve_figure(curves).axes[0]
    vertical = {line.get_label(): line.get_xdata()[0] for line in axes.lines if "forward" in str(line.get_label())}
    assert vertical == {"ceiling, 1 forward per block (20.0)": 20.0, "2 forwards per block (10.0)": 10.0}
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert set(legend) == {*curves, *vertical}


def test_every_threshold_is_written_and_none_over_another(curves):
    figure = curve_figure(curves)
    names = figure.axes[0].texts
    assert sorted(text.get_text() for text in names) == sorted(["0", "0.5", "0.9", "0", "0.95"])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in names]
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


def test_crowded_points_still_get_their_names():
    points = [CurvePoint(t / 20, result(1.0, 4.0)) for t in range(21)]
    assert len(curve_figure({"spd": points}).axes[0].texts) == 21


def test_it_is_drawn_without_a_display_and_without_curves(curves):
    for drawn in (curve_figure(curves), curve_figure({})):
        drawn.canvas.draw()
        pixels = np.asarray(drawn.canvas.buffer_rgba())
        assert pixels.shape == (500, 800, 4)
        assert pixels.std() > 0


def test_table_is_one_row_a_point(curves):
    rows = curve_table(curves)
    assert [(row["label"], row["threshold"], row["tpf"]) for row in rows][-2:] == [
        ("threshold", 0.95, 2.0),
        ("uniform", None, 4.0),
    ]
