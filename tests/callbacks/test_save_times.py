from types import SimpleNamespace

import pytest

from dmaxlit import UserError
from dmaxlit.callbacks import _save_times
from dmaxlit.callbacks._save_times import SaveTimes


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(_save_times, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_checkpoint_is_due_after_the_minutes_unless_one_is_being_written(clock):
    times = SaveTimes(every_minutes=1.0, every_n_steps=None)
    times.begin()
    clock.now += 59.9
    assert not times.is_due(1)
    clock.now += 0.1
    assert times.is_due(1)
    assert not times.is_due(1, is_writing=True)


def test_checkpoints_take_no_more_than_a_twentieth_of_the_time(clock):
    times = SaveTimes(every_minutes=1.0, every_n_steps=None)
    times.begin(cost=9.0)
    clock.now += 179.9
    assert not times.is_due(1)
    clock.now += 0.2
    assert times.is_due(1)


def test_those_by_steps_wait_for_nothing(clock):
    times = SaveTimes(every_minutes=None, every_n_steps=3)
    times.begin(cost=1e6)
    assert [step for step in range(1, 8) if times.is_due(step, is_writing=True)] == [3, 6]
    clock.now += 1e9
    assert not times.is_due(4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((-1.0, None), "every_minutes: expected at least 0, got -1.0"),
        ((float("nan"), None), "every_minutes: expected at least 0, got nan"),
        ((None, 0), "every_n_steps: expected at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        SaveTimes(*settings)
