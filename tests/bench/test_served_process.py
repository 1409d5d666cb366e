"""A server in a process of its own: its address, what the system says of it, and its end."""

import math
import os
import sys

import httpx
import pytest

from dmaxlit import UserError
from dmaxlit.bench.served_process import served


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Replace Python by a script that notes its arguments and serves nothing."""

    def write(body):
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n{body}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return lambda: (tmp_path / "arguments").read_text().split()

    return write


SERVES = """trap 'exit 3' TERM
echo "m: http://127.0.0.1:81/v1 (Ctrl-C stops)"
while :; do sleep 0.01; done"""


def test_a_server_is_started_looked_at_and_stopped(interpreter):
    arguments = interpreter(SERVES)
    with served("--model", "m") as server:
        assert server.url == "http://127.0.0.1:81/v1"
        assert arguments() == ["-m", "dmaxlit", "serve", "--port", "0", "--model", "m"]
        if sys.platform == "linux":
            assert 0 < server.resident_mib < 100
            assert server.cpu_seconds >= 0
        assert server.stop() == 3


def test_a_server_that_does_not_start_is_reported(interpreter):
    interpreter("exit 2")
    with pytest.raises(UserError, match="serve: expected a server that starts, got exit status 2"), served():
        pass


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="no such call here")
def test_a_server_that_dies_is_reported_with_its_exit_status(interpreter):
    interpreter('echo "m: http://127.0.0.1:81/v1"\nexit 7')

    def ask():
        with served() as server:
            os.waitid(os.P_PID, server._process.pid, os.WEXITED | os.WNOWAIT)
            assert math.isnan(server.resident_mib)  # it has ended, and nobody has asked how
            assert server.exit_status == 7
            raise httpx.ReadError("no more")

    with pytest.raises(UserError, match=r"^serve: expected a server that answers, got exit status 7$"):
        ask()


def test_a_server_that_hangs_is_reported_with_what_the_request_met(interpreter, monkeypatch):
    monkeypatch.setattr("dmaxlit.bench.served_process._DEATH_SECONDS", 0)
    interpreter(SERVES)

    def ask():
        with served() as server:
            assert server.exit_status is None
            raise httpx.ReadTimeout("")

    with pytest.raises(UserError, match=r"^serve: expected a server that answers, got ReadTimeout"):
        ask()
