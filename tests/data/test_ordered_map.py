import os
import signal
import time

import pytest

from dmaxlit.data.ordered_map import ordered_map
from dmaxlit.errors import UserError


def double(number):
    if number == 0:
        time.sleep(0.05)  # so that later ones are ready before it
    if number == 7:
        raise UserError("seven")
    return 2 * number, os.getpid()


def numbers(end, failure):
    yield from range(end)
    if failure is not None:
        raise failure


@pytest.mark.parametrize("num_proc", [1, 2])
def test_results_come_in_order(num_proc):
    results = list(ordered_map(double, range(7), num_proc))
    assert [result for result, _ in results] == [0, 2, 4, 6, 8, 10, 12]
    assert ({process for _, process in results} == {os.getpid()}) is (num_proc == 1)


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize(("end", "failure", "seen", "message"), [(6, "six", 6, "six"), (9, "nine", 7, "seven")])
def test_errors_come_behind_the_results_before_them(num_proc, end, failure, seen, message):
    results = []
    with pytest.raises(UserError, match=f"^{message}$"):
        results.extend(ordered_map(double, numbers(end, UserError(failure)), num_proc))
    assert len(results) in (0, seen)  # extend keeps what came, or nothing


def test_only_a_few_chunks_are_read_ahead():
    read = []
    results = ordered_map(double, (read.append(number) or 1 for number in range(100)), 2)
    next(results)
    assert len(read) <= 5
    results.close()


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line():
    with pytest.raises(UserError, match=r"^num_proc: expected 2 processes to live, but one was killed, perhaps for"):
        list(ordered_map(die, range(5), 2))


def test_processes_end_with_the_one_that_started_them(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # dies while its pool works
        os.close(reader)
        for _ in ordered_map(wait_long, range(4), 2):
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    os.close(writer)
    os.waitpid(child, 0)
    begin = time.monotonic()
    assert os.read(reader, 1) == b""  # the end of the pipe: no process of the pool holds it any longer
    assert time.monotonic() - begin < 5
    os.close(reader)


def wait_long(number):
    if number:
        time.sleep(20)
