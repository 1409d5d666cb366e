import numpy as np
import pytest

from dmaxlit.evaluation.curve_figure import curve_figure, curve_table, save_pictures
from dmaxlit.evaluation.curve_point import CurvePoint
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


def test_bars_are_the_point_s_own_intervals_or_else_those_over_prompts():
    points = [CurvePoint(0.5, result(0.9, 4.0), (0.6, 0.95)), CurvePoint(0.9, result(0.9, 3.0))]
    axes = curve_figure({"spd": points}).axes[0]
    (bars,) = axes.containers
    (segments,) = bars.lines[2]
    heights = [list(segment[:, 1]) for segment in segments.get_segments()]
    assert heights[0] == pytest.approx([60, 95])
    assert heights[1] == pytest.approx([100 * bound for bound in result(0.9, 3.0).accuracy_interval()])
    assert axes.get_ylim()[0] < 60


def test_labels_are_shown_as_they_are(curves):
    labels = ["$x^{$", "costs $5 or $6", "_mine"]
    figure = curve_figure(dict(zip(labels, curves.values(), strict=True)), "a title of $\\frac{1}$")
    figure.canvas.draw()
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert [text.strip() for text in texts[:3]] == labels
    assert [text.startswith("ceiling, ") for text in texts] == [False] * 3 + [True] * 2
    assert all(text.get_window_extent().width > 10 for text in legend.get_texts())


def test_axes_are_labelled_and_show_everything(curves):
    axes = curve_figure(curves, "a title").axes[0]
    assert axes.get_xlabel() == "tokens per forward (TPF)"
    assert axes.get_title() == "a title"
    assert 1.5 < axes.get_xlim()[0] < 2.0
    assert 20.0 < axes.get_xlim()[1] < 25
    assert axes.get_ylim()[0] < 10 < 100 < axes.get_ylim()[1]


def heights(axes, *accuracies):
    """Return how high accuracies are on the axes, 0 to 1."""
    points = axes.transAxes.inverted().transform(axes.transData.transform([(4, a) for a in accuracies]))
    return [y for _, y in points]


def test_accuracies_above_90_have_most_of_the_axis(curves):
    mixed = curve_figure(curves).axes[0]  # from 10 to 100%
    low, high = heights(mixed, 90, 100)
    assert high - low > 0.35
    assert mixed.get_ylabel() == "accuracy %, stretched above 90"
    del curves["threshold"]
    axes = curve_figure(curves).axes[0]  # from 90 to 100%, with intervals from 82%
    assert axes.get_ylabel() == "accuracy %"
    assert heights(axes, 100)[0] - heights(axes, 90)[0] > 0.45
    poor = {"spd": [CurvePoint(0.0, result(0.1, 5.0)), CurvePoint(0.5, result(0.6, 2.0))]}
    assert curve_figure(poor).axes[0].get_ylabel() == "accuracy %"


def test_far_ceilings_do_not_squeeze_the_data():
    axes = curve_figure({"spd": [CurvePoint(0.0, result(0.9, 3.0)), CurvePoint(0.5, result(1.0, 2.0))]}).axes[0]
    assert axes.get_xlim()[1] < 4
    assert "ceiling, 1 forward per block (20.0, beyond the axis)" in [line.get_label() for line in axes.lines]


def test_lines_that_cover_each_other_are_all_seen():
    points = [CurvePoint(0.0, result(0.9, 5.0)), CurvePoint(0.5, result(1.0, 4.0))]
    axes = curve_figure({name: points for name in "abc"}).axes[0]
    lines = [bars.lines[0] for bars in axes.containers]
    widths, sizes = [line.get_linewidth() for line in lines], [line.get_markersize() for line in lines]
    assert widths == sorted(set(widths), reverse=True)
    assert sizes == sorted(set(sizes), reverse=True)
    assert len({line.get_linestyle() for line in lines}) == len({line.get_marker() for line in lines}) == 3


def test_ceilings_are_those_of_the_most_accurate_answers(curves):
    curves["threshold"][0] = CurvePoint(0.0, result(0.1, 7.0, ceiling=30.0))
    axes = curve_figure(curves).axes[0]
    vertical = {line.get_label(): line.get_xdata()[0] for line in axes.lines if "forward" in str(line.get_label())}
    assert vertical == {
        "ceiling, 1 forward per block (20.0, beyond the axis)": 20.0,
        "ceiling, 2 forwards per block (10.0, beyond the axis)": 10.0,
    }
    legend = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert legend == [*curves, *vertical]


def test_every_threshold_is_written_and_none_over_another(curves):
    figure = curve_figure(curves)
    names = figure.axes[0].texts
    assert sorted(text.get_text() for text in names) == sorted(["0", "0.5-0.9", "0", "0.95"])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in names]
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


def test_points_on_top_of_each_other_share_a_label():
    points = [CurvePoint(t / 20, result(1.0, 4.0)) for t in range(21)]
    curves = {"spd": [*points, CurvePoint(2.0, result(0.5, 2.0))], "threshold": [points[3]]}
    assert [text.get_text() for text in curve_figure(curves).axes[0].texts] == ["0-1", "2", "0.15"]


def test_pictures_are_of_the_kind_that_their_names_end_in_and_the_same_each_time(curves, tmp_path):
    save_pictures(curve_figure(curves, "a title"), tmp_path / "one")
    save_pictures(curve_figure(curves, "a title"), tmp_path / "two")
    for suffix, begin in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        content = (tmp_path / f"one{suffix}").read_bytes()
        assert content.startswith(begin)
        assert content == (tmp_path / f"two{suffix}").read_bytes()
    assert "tokens per forward (TPF)" in (tmp_path / "one.svg").read_text()  # text, not outlines


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
