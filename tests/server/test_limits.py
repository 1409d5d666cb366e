import pytest

from dmaxlit import UserError
from dmaxlit.server import Limits


@pytest.mark.parametrize(
    "name",
    ["batch_size", "max_responses", "max_tokens", "max_length", "max_window", "max_mixed_tokens", "max_body"],
)
def test_limits_of_nothing_are_refused(name):
    with pytest.raises(UserError, match=f"{name}: expected at least 1, got 0"):
        Limits(**{name: 0})


def test_an_empty_queue_no_extra_blocks_and_no_patience_are_allowed():
    Limits(max_waiting=0, max_extra_blocks=0, shutdown_seconds=0)
    for name in ("max_waiting", "max_extra_blocks", "shutdown_seconds"):
        with pytest.raises(UserError, match=f"{name}: expected at least 0, got -1"):
            Limits(**{name: -1})


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_no_time_for_a_request_is_refused(seconds):
    with pytest.raises(UserError, match=f"max_seconds: expected a number above 0, got {seconds}"):
        Limits(max_seconds=seconds)


def test_waiting_for_ever_when_told_to_stop_is_refused():
    with pytest.raises(UserError, match="shutdown_seconds: expected a finite number, got inf"):
        Limits(shutdown_seconds=float("inf"))


def test_a_request_has_room_in_an_empty_queue():
    assert Limits(batch_size=2, max_waiting=1, max_responses=4).responses_per_request == 3
    assert Limits(batch_size=2, max_waiting=9, max_responses=4).responses_per_request == 4
