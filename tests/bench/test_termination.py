import os
import signal
import subprocess
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from multiprocessing import active_children
from multiprocessing.context import ForkServerContext

import pytest

from dmaxlit import UserError
from dmaxlit.bench.command import run_dmaxlit
from dmaxlit.bench.jobs import run_jobs
from dmaxlit.bench.speed import in_new_process
from dmaxlit.bench.termination import exit_on_signals


@dataclass
class Bench:
    workers: int = 2
    threads: int = 1


@pytest.fixture
def interpreter(tmp_path, replace_python):
    """Replace Python by a script that goes on until it is told to end, and says so."""
    replace_python(
        f'trap "echo ended; touch {tmp_path}/ended; exit 143" TERM\n'
        f"touch {tmp_path}/begun\necho begun\nwhile :; do sleep 0.02; done\n"
    )


@pytest.fixture
def terminated():
    """Return a function that calls another one, and sends this process SIGTERM as soon as something has begun."""

    def terminated(function, *arguments, has_begun):
        def send():
            while not has_begun():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=send)
        thread.start()
        with pytest.raises(SystemExit) as end, exit_on_signals():
            function(*arguments)
        thread.join()
        return end.value.code

    before = signal.getsignal(signal.SIGTERM)
    yield terminated
    assert signal.getsignal(signal.SIGTERM) is before


def test_jobs_end_with_the_benchmark(tmp_path, interpreter, terminated):
    logs = [tmp_path / f"base-{number}.log" for number in range(3)]
    jobs = [("base", number) for number in range(3)]
    code = terminated(run_jobs, Bench(), jobs, tmp_path, "models", has_begun=lambda: all(map(_has_begun, logs[:2])))
    assert code == 143
    assert [log.read_text().split() for log in logs[:2]] == [["begun", "ended"]] * 2
    assert not logs[2].exists()


@pytest.fixture(params=[0.0, 0.5], ids=["started", "starting"])
def signalled(request, monkeypatch):
    """Let a signal that is sent when a process has begun come after its start, or within."""
    start = subprocess.Popen

    def slowly(*args, **options):
        process = start(*args, **options)
        time.sleep(request.param)
        return process

    monkeypatch.setattr(subprocess, "Popen", slowly)


@pytest.mark.usefixtures("interpreter", "signalled")
def test_a_command_ends_with_what_has_started_it(tmp_path, terminated):
    assert terminated(run_dmaxlit, "fit", has_begun=(tmp_path / "begun").exists) == 143
    assert (tmp_path / "ended").exists()


@pytest.mark.usefixtures("interpreter", "signalled")
def test_a_command_of_a_thread_ends_with_the_benchmark(tmp_path, terminated):
    done, begin = Future(), time.monotonic()

    def fit():
        try:
            run_dmaxlit("fit")
        except UserError as error:
            done.set_result(str(error))

    def run():
        try:
            threading.Thread(target=fit).start()
            while not done.done():
                wait([done], 0.1)  # a signal that comes just before a wait is heeded after it
        finally:  # as what waits for the thread is interrupted
            wait([done], 60)

    assert terminated(run, has_begun=(tmp_path / "begun").exists) == 143
    assert done.result(0) == "fit failed with exit status 143: no message"
    assert (tmp_path / "ended").exists()
    assert time.monotonic() - begin < 60


def test_a_measurement_ends_with_its_benchmark(monkeypatch, terminated):
    monkeypatch.setattr(ForkServerContext, "set_forkserver_preload", lambda *_: None)  # takes seconds
    begin, others = time.monotonic(), set(active_children())  # such as those that grade, of other tests
    code = terminated(in_new_process, time.sleep, 600, has_begun=lambda: set(active_children()) - others)
    assert code == 143
    assert time.monotonic() - begin < 60
    assert not active_children()


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.1])
def test_a_measurement_ends_whenever_the_signal_comes(delay, monkeypatch, terminated):
    monkeypatch.setattr(ForkServerContext, "set_forkserver_preload", lambda *_: None)
    called, begin = threading.Event(), time.monotonic()

    def measure():
        called.set()
        in_new_process(time.sleep, 600)

    assert terminated(measure, has_begun=lambda: called.wait() and time.sleep(delay) is None) == 143
    assert time.monotonic() - begin < 60


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with exit_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_signals_alone():
    handlers = []

    def run():
        with exit_on_signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def _has_begun(log):
    return log.is_file() and "begun" in log.read_text()
