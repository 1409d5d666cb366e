import threading

import pytest

from dmaxlit.bench.start_line import call_off, wait_for_others
from dmaxlit.errors import UserError


def test_none_starts_before_all_are_there(tmp_path):
    started = []
    first = threading.Thread(target=lambda: (wait_for_others(tmp_path / "start", 0, 2), started.append(0)))
    first.start()
    first.join(0.05)
    assert not started
    wait_for_others(tmp_path / "start", 1, 2)
    first.join()
    assert started == [0]


def test_one_that_does_not_come_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.bench.start_line._LONGEST", 0.01)
    with pytest.raises(UserError, match=r"^bench scale: expected 2 processes at the start, got 1$"):
        wait_for_others(tmp_path, 0, 2)


def test_a_start_that_is_called_off_is_not_waited_for(tmp_path):
    call_off(tmp_path / "start")
    with pytest.raises(UserError, match=r"^bench scale: another process failed before the start$"):
        wait_for_others(tmp_path / "start", 0, 2)
