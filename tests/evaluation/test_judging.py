import threading
from functools import partial

import pytest

from dmaxlit.evaluation import judging
from dmaxlit.evaluation.judging import WaitingRows, made_rows, num_judges


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(judging, "_num_processors", lambda: 2)


def row(number):
    return {"index": number}


def test_rows_that_run_programs_are_made_side_by_side_and_come_in_order():
    together = threading.Barrier(2, timeout=30)  # at which two have to wait at the same time

    def make(number):
        together.wait()
        return row(number)

    made = made_rows([partial(make, number) for number in range(6)], num_judges(runs_answers=True))
    assert [each["index"] for each in made] == [0, 1, 2, 3, 4, 5]


def test_others_are_made_here_one_by_one():
    threads = []

    def make():
        threads.append(threading.current_thread())
        return row(0)

    rows = made_rows([make, make], num_judges(runs_answers=False))
    next(rows)
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize(("runs_answers", "most"), [(False, 1), (True, 8)])
def test_they_wait_until_there_are_enough(runs_answers, most):
    used = []
    rows = WaitingRows(used.append, num_judges(runs_answers))
    assert [rows.add(partial(row, number)) for number in range(most)] == [False] * (most - 1) + [True]
    assert used == []
    rows.make()
    assert [each["index"] for each in used] == list(range(most))
    rows.make()
    assert len(used) == most


def test_an_error_ends_the_others():
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(made_rows([fail, *[partial(row, 1)] * 50], num_judges(runs_answers=True)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dmaxlit-judge")]


def test_processes_share_the_processors(monkeypatch):
    monkeypatch.setattr(judging, "_num_processors", lambda: 16)
    assert [num_judges(True, processes) for processes in (1, 4, 16, 64)] == [16, 4, 1, 1]
