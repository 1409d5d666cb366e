import time

import pytest
import torch

from dmaxlit.evaluation.clock import DecodeClock


@pytest.fixture
def now(monkeypatch):
    value = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: value[0])
    return value


def test_what_happens_during_a_pause_is_left_out(now):
    clock = DecodeClock(torch.device("cpu"))
    now[0] += 50
    with clock.running():
        now[0] += 2
        with clock.paused():
            now[0] += 30
            assert clock.seconds == 2
        now[0] += 1
    now[0] += 9
    assert clock.seconds == 3


def test_time_until_an_error_counts(now):
    clock = DecodeClock(torch.device("cpu"))

    def fail():
        now[0] += 4
        with clock.paused():
            now[0] += 5
            raise KeyError

    with pytest.raises(KeyError), clock.running():
        fail()
    assert clock.seconds == 4
