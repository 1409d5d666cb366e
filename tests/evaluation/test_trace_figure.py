import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dmaxlit.engine import Trace
from dmaxlit.evaluation.trace_figure import heat_map, trace_figure
from tests.engine.traces import hand_made

MATHS = "$x_1^{$ \x1b[31m 漢"


def test_a_figure_has_the_heat_map_and_the_answer_of_every_prompt():
    row = hand_made()
    trace = Trace({0: row, 4: row}, {0: "2 + 2 ?", 4: MATHS}, dict.fromkeys(range(9), "x"))
    figure = trace_figure(trace, ["four", MATHS])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    first, second = figure.axes
    assert first.get_xlabel() == "four"
    assert first.get_title() == "2 + 2 ?   5 tokens, 5 forwards, TPF 1.00"
    assert second.get_title().startswith("$x_1^{$ □[31m □")
    assert np.array_equal(first.images[0].get_array(), heat_map(row.recording()))


def test_cells_have_the_hue_of_their_state_and_the_strength_of_their_confidence():
    recording = hand_made().recording()
    cells = heat_map(recording)
    assert cells.shape == (5, 5, 3)
    assert ((cells >= 0) & (cells <= 1)).all()
    assert (cells[:3, 2:] == 1).all()  # not open yet
    assert cells[2, 0] == pytest.approx((0.76, 0.09, 0.36))  # 1 became 3
    soft, share = np.array([0.98, 0.66, 0.12]), 0.25 + 0.75 * float(recording.confidence[0, 0])
    assert cells[0, 0] == pytest.approx(share * soft + 1 - share)
    assert cells[3, 0] == pytest.approx(1 - 0.22 * (1 - np.array([0.22, 0.67, 0.42])))  # committed before
