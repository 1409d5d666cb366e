import threading
import time
from functools import partial

import pytest

from dmaxlit import UserError
from dmaxlit.engine import Generation
from dmaxlit.evaluation import judging
from dmaxlit.evaluation.judging import WaitingRows, made_rows, num_judges
from dmaxlit.evaluation.sample_rows import sample_row
from dmaxlit.tasks import Example


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


def test_none_waits_longer_than_half_a_minute():
    now = [0.0]
    rows = WaitingRows([].append, num_judges(runs_answers=True), now=lambda: now[0])
    for begin in (0.0, 100.0):
        added = []
        for now[0] in (begin, begin + 29.0, begin + 30.0):
            added.append(rows.add(partial(row, 0)))
        assert added == [False, False, True]
        rows.make()


def fail_once(error, failed):
    if not failed:
        failed.append(True)
        raise error
    return row(1)


def test_what_an_interrupted_call_has_not_handed_over_is_rescued():
    used = []
    rows = WaitingRows(used.append, num_judges(runs_answers=True))
    for make in (partial(row, 0), partial(fail_once, KeyboardInterrupt(), []), partial(row, 2)):
        rows.add(make)
    with pytest.raises(KeyboardInterrupt):
        rows.make()
    assert used == [row(0)]
    rows.rescue()
    assert used == [row(0), row(1), row(2)]


def test_an_answer_that_cannot_be_judged_does_not_take_those_behind_it_along():
    def refuse():
        raise UserError("sandbox: the tests cannot be run")

    used = []
    rows = WaitingRows(used.append, num_judges(runs_answers=True))
    for make in (refuse, partial(row, 1), refuse, partial(row, 2)):
        rows.add(make)
    with pytest.raises(UserError):
        rows.make()
    rows.rescue()
    assert used == [row(1), row(2)]


def test_a_full_disk_takes_no_answer_along_that_is_not_judged_yet():
    kept = []

    def use(made):
        kept.append(made)
        raise UserError("output: cannot write 'samples.jsonl' (No space left on device)")

    rows = WaitingRows(use, num_judges(runs_answers=True))
    for number in range(3):
        rows.add(partial(row, number))
    with pytest.raises(UserError):
        rows.make()
    rows.rescue()
    assert kept == [row(0), row(1), row(2)]


def test_a_rescue_ends_soon(monkeypatch):
    monkeypatch.setattr(judging, "_RESCUE_SECONDS", 0.2)
    used, begun = [], []

    def slow():
        begun.append(True)
        time.sleep(0.5)
        return row(1)

    rows = WaitingRows(used.append, num_judges(runs_answers=True))
    for make in (partial(row, 0), *[slow] * 6):
        rows.add(make)
    rows.rescue()
    assert used == [row(0)]
    assert len(begun) == 2


def test_what_is_judged_alone_is_not_judged_again_at_the_end():
    rows = WaitingRows([].append, num_judges(runs_answers=False))
    rows.add(partial(fail_once, KeyboardInterrupt(), failed := []))
    with pytest.raises(KeyboardInterrupt):
        rows.make()
    failed.clear()
    rows.rescue()
    assert failed == []


def test_an_error_ends_the_others():
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(made_rows([fail, *[partial(row, 1)] * 50], num_judges(runs_answers=True)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dmaxlit-judge")]


def test_processes_share_the_processors(monkeypatch):
    monkeypatch.setattr(judging, "_num_processors", lambda: 16)
    assert [num_judges(True, processes) for processes in (1, 4, 16, 64)] == [16, 4, 1, 1]


def test_a_prompt_whose_tests_cannot_be_run_is_named():
    def check(text):
        raise UserError("sandbox: the tests cannot be run")

    example = Example("q", "", check)
    with pytest.raises(UserError, match=r"^prompt 8: sandbox: the tests cannot be run$"):
        sample_row(7, example, Generation([0], 1, True, 0, "q", "a"), 1)
