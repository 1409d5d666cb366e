"""What a notebook shows is text: nothing of a model becomes markup."""

import html
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.engine import Generation, Trace
from dmaxlit.evaluation.cell_result import CellResult
from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.viewer.notebook import frame

HOSTILE = "<script>alert(1)</script>\x1b[31m\"'&"
RESULT = DecodeResult(
    decoder="spd", options={"note": HOSTILE}, num_examples=8, accuracy=0.5, tpf=6.0, tpf_published=5.0,
    tpf_ceiling=22.0, forwards_per_answer=10.0, tokens_per_second=float("nan"), finished=1.0, blocks_at_step_limit=0,
    blocks=24, seconds=1.0,
)  # fmt: skip


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
