import pytest
import torch

from dmaxlit import UserError
from dmaxlit.viewer import Recording
from tests.viewer.recordings import synthetic

NAN = float("nan")


def recording_of(ids, confidence=None, finalized=None):
    ids = torch.tensor(ids)
    confidence = torch.full(ids.shape, NAN) if confidence is None else torch.tensor(confidence)
    finalized = torch.ones(ids.shape[1], dtype=torch.long) if finalized is None else torch.tensor(finalized)
    return Recording(ids, confidence, torch.ones_like(ids), finalized, torch.zeros(ids.shape[1]), [len(ids)])


def test_figures_are_those_of_the_metrics():
    recording = recording_of([[5, -1, -1], [6, 7, -1], [6, 7, 8]], finalized=[2, 2, 3])
    # Two tokens at forward 2, one at 3: AFP 3 / 2. Of three pairs two are in order and one is a tie.
    tau = pytest.approx(2 / 6**0.5, abs=1e-4)
    assert recording.figures() == {"tokens": 3, "tpf": 1.0, "afp": 1.5, "tau": tau, "revised": 1}


def test_masks_of_a_stopped_response_are_no_tokens():
    recording = recording_of([[5, -1, -1], [6, 7, -1], [6, -1, -1]], finalized=[2, 3, 1])
    assert recording.figures() == {"tokens": 1, "tpf": 0.3333, "afp": 1.0, "tau": None, "revised": 1}


def test_figures_that_are_undefined_are_none():
    assert recording_of([[4]]).figures()["tau"] is None
    empty = Recording(*[torch.zeros(2, 0)] * 3, torch.zeros(0), torch.zeros(0), [2])
    assert empty.figures() == {"tokens": 0, "tpf": 0.0, "afp": None, "tau": None, "revised": 0}


def test_a_position_keeps_the_confidence_that_was_computed_last():
    confidence = [[NAN, 0.25], [0.5, NAN], [NAN, NAN], [NAN, 1.0]]
    latest = recording_of([[1, 1]] * 4, confidence).last_confidence()
    assert latest.nan_to_num(-1).tolist() == [[-1, 0.25], [0.5, 0.25], [0.5, 0.25], [0.5, 1.0]]


def test_what_a_browser_could_not_hold_is_refused():
    many = torch.zeros(1).expand(5000, 5000)
    with pytest.raises(
        UserError, match="trace: expected tokens x forwards of a prompt to be at most 20,000,000, got 5000"
    ):
        Recording(many, many, many, many[0], many[0], [5000])


def test_synthetic_recordings_are_like_those_of_the_engine():
    recording = synthetic(50, 100, 32)
    assert (recording.ids[-1] >= 0).all()
    assert (recording.state[-1] == 4).all()
    assert sum(recording.forwards_per_block) == 50
    assert 10 < recording.figures()["revised"] < 500
