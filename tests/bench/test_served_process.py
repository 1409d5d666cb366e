"""A server in a process of its own: its address, what the system says of it, and its end."""

import sys

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
