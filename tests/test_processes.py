import shlex
import sys

from tests.processes import Processes

SERVER = """
import json, pathlib, subprocess, sys
sys.stdin.readline()
process = subprocess.Popen(["sleep", "3"])
print(json.dumps([process.pid]), flush=True)
code = process.wait()
pathlib.Path(sys.argv[1]).write_text(str(code))
print(json.dumps([code]), flush=True)
sys.stdin.read()
"""


def test_what_is_still_running_ends_with_the_server(tmp_path, monkeypatch):
    script, codes = tmp_path / "python", tmp_path / "code"
    script.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-c', SERVER, str(codes)])}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    started = Processes()
    started.start([], tmp_path / "log")
    started.close()
    assert started._server.returncode == 0
    assert codes.read_text() == "-9"


def test_a_process_has_no_input_and_says_why_it_ended(processes, tmp_path):
    assert processes.run([], tmp_path / "log", module="json.tool") == [1]
    assert "Expecting value" in (tmp_path / "log").read_text()
