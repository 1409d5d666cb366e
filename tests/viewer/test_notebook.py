"""What a notebook shows is text: nothing of a model becomes markup."""

import base64
import html
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.engine import Generation, Trace
from dmaxlit.evaluation.cell_result import CellResult
from dmaxlit.evaluation.compare import Comparison
from dmaxlit.evaluation.curve_point import CurvePoint
from dmaxlit.evaluation.curves import Curves
from dmaxlit.evaluation.paired import paired_difference, paired_ratio
from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.evaluation.run_comparison import RunComparison
from dmaxlit.evaluation.run_figures import RunFigures, RunRow
from dmaxlit.viewer.notebook import frame

HOSTILE = "<script>alert(1)</script>\x1b[31m\"'&"
RESULT = DecodeResult(
    decoder="spd", options={"note": HOSTILE}, num_examples=8, accuracy=0.5, tpf=6.0, tpf_published=5.0,
    tpf_ceiling=22.0, forwards_per_answer=10.0, tokens_per_second=float("nan"), finished=1.0, blocks_at_step_limit=0,
    blocks=24, seconds=1.0,
)  # fmt: skip


RATIO = paired_ratio(([4, 6], [2, 2]), ([4, 6], [1, 3]))
CURVES = Curves({HOSTILE: [CurvePoint(0.5, RESULT), CurvePoint(0.9, replace(RESULT, tpf=3.0))]})


def run(name, value):
    """A run with one setting of its own and one figure."""
    row = RunRow("", HOSTILE, HOSTILE, HOSTILE, 0.5, None, RESULT)
    return RunFigures(name, Path(), "fit", {"note": value}, (row,), (row,))


class Elements(HTMLParser):
    """Collects the elements, attributes and text of HTML."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.text = set(), {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data):
        self.text += data


#: matplotlib has no picture of an escape character.
IN_PICTURES = pytest.mark.filterwarnings("ignore:Glyph 27")


@pytest.fixture(scope="module")
def trace():
    trace = Trace()
    dmaxlit.load("builtin:chain-base").generate([HOSTILE, "7 +1 ?"], max_new_tokens=32, trace=trace)
    return trace


@pytest.mark.parametrize(
    "value",
    [
        Generation([1, 2], 1, True, 0, prompt=HOSTILE, text=HOSTILE),
        Generation([1, 2], 1, True, 0, prompt=[{"role": "user", "content": HOSTILE}], text="x"),
        RESULT,
        CellResult(HOSTILE, HOSTILE, "line", None, "samples", RESULT, {}, {}, {}),
    ],
)
def test_results_are_tables_of_text(value):
    shown = Elements(value._repr_html_())
    assert shown.names == {"table", "tr", "th", "td"}
    assert "<script>alert(1)</script>" in shown.text
    assert "\x1b" not in shown.text


@IN_PICTURES
@pytest.mark.parametrize(
    ("value", "elements"),
    [
        (CURVES, {"table", "tr", "th", "td", "img"}),
        (RunComparison([run("a", HOSTILE), run(HOSTILE, 1)]), {"table", "caption", "tr", "th", "td", "img"}),
        (
            Comparison(
                HOSTILE,
                HOSTILE,
                2,
                (0.5, 1.0),
                (2.5, 2.5),
                paired_difference([[False, True]], [[True, True]]),
                RATIO,
                RATIO,
            ),
            {"table", "caption", "tr", "th", "td"},
        ),
    ],
)
def test_curves_and_comparisons_are_pictures_and_tables_of_text(value, elements):
    shown = Elements(value._repr_html_())
    assert shown.names == elements
    assert "<script>alert(1)</script>" in shown.text
    assert "\x1b" not in shown.text
    if "img" in elements:
        kind, _, data = shown.attributes["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")


@IN_PICTURES
def test_a_curve_has_a_row_for_each_point_and_a_comparison_what_differs():
    text = CURVES._repr_html_()
    assert text.count("<tr>") == 3
    low, high = RESULT.accuracy_interval()
    assert f">50.0 [{100 * low:.1f}, {100 * high:.1f}]</td>" in text
    assert ">3.00</td>" in text
    text = RunComparison([run("a", 1), run("b", 2)])._repr_html_()
    assert text.index("Settings that differ") < text.index(">2</td>") < text.index("8 prompts")
    assert Elements(Curves()._repr_html_()).names == {"table", "tr", "th"}


def test_figures_are_shown_with_their_interval():
    text = Elements(RESULT._repr_html_()).text
    low, high = RESULT.accuracy_interval()
    assert f"accuracy0.5 [{low:.4g}, {high:.4g}]" in text
    assert "tpf6" in text


def test_a_trace_is_a_frame_that_can_reach_nothing(trace):
    shown = Elements(trace._repr_html_())
    assert shown.names == {"iframe"}
    assert shown.attributes["sandbox"] == "allow-scripts"  # without allow-same-origin
    assert shown.attributes["srcdoc"] == trace.to_html()
    assert html.escape(trace.to_html()) in trace._repr_html_()


def test_a_trace_without_records_says_so_instead():
    assert "expected a record of at least one prompt" in Elements(Trace()._repr_html_()).text


def test_show_displays_in_a_notebook_and_is_refused_elsewhere(trace, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with pytest.raises(UserError, match=r"^show: expected a notebook; elsewhere to_html"):
        trace.show()
    shown = []
    shell = SimpleNamespace(
        get_ipython=lambda: None, display=SimpleNamespace(display=lambda data, raw: shown.append((data, raw)))
    )
    monkeypatch.setitem(sys.modules, "IPython", shell)
    with pytest.raises(UserError, match=r"^show: expected a notebook"):
        trace.show()
    shell.get_ipython = lambda: object()
    trace.show(indices=[1], height=500)
    ((data, raw),) = shown
    assert raw
    assert data["text/html"] == frame(trace.to_html(indices=[1]), 500)
    assert data["text/plain"] == repr(trace)


def test_a_frame_too_low_is_refused(trace):
    with pytest.raises(UserError, match=r"^height: expected at least 100, got 5$"):
        frame("", 5)
