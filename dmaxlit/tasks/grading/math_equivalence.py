"""Equivalence of LaTeX answers, by math-verify in a process of its own."""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

from dmaxlit.errors import UserError

LONGEST = 400  # characters of an answer that the parser sees
_SECONDS = 5.0  # CPU time of one comparison
_WAIT = 10 * _SECONDS  # the same on a busy machine
_START = 300.0  # seconds to import the library
_MEMORY = 2 * 2**30


def require_math_verify(task: str) -> None:
    """Start the process of comparisons; refuse to go on without it.

    Args:
        task: The task that needs it, for the message.

    Raises:
        UserError: If the library is not installed, with how to install it, or cannot be started.
    """
    if find_spec("math_verify") is None:
        raise UserError(f"task {task!r} needs the math-verify library: pip install -e '.[math]'")
    with _lock:
        _worker().start()


def equivalent(reference: str, answer: str) -> bool:
    """Return whether two LaTeX answers are mathematically the same.

    The comparison runs in a process that lives as long as this one. If it takes more than 5 seconds of CPU time or
    2 GiB of memory, or crashes, the answers count as different, and the next comparison starts another process.

    Args:
        reference: The reference.
        answer: The model's. One of more than 400 characters is never the same.

    Raises:
        UserError: If math-verify is missing or cannot be started.
    """
    if len(answer) > LONGEST or len(reference) > LONGEST:
        return False
    with _lock:
        return _worker().compare(reference, answer)


class _Worker:
    def __init__(self) -> None:
        self.owner = os.getpid()
        self.process: subprocess.Popen[bytes] | None = None

    def compare(self, reference: str, answer: str) -> bool:
        process = self.start()
        request = json.dumps({"reference": reference, "answer": answer}) + "\n"
        reply = self._ask(process, request.encode(), _WAIT)
        if reply is None:
            self.stop()
        return reply == b"true\n"

    def start(self) -> "subprocess.Popen[bytes]":
        """Return the process, which is started if there is none."""
        if self.process is not None:
            return self.process
        script = Path(__file__).with_name("math_worker.py")
        # The environment holds what a Python needs, and none of the user's secrets.
        needed = ("PATH", "PYTHONPATH", "HOME", "LD_LIBRARY_PATH")
        environment = {name: os.environ[name] for name in needed if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(_SECONDS), str(_MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )
        if self._ask(self.process, b"", _START) != b"ready\n":
            self.stop()
            raise UserError("math-verify: cannot be started; does 'python -c \"import math_verify\"' work?")
        return self.process

    @staticmethod
    def _ask(process: "subprocess.Popen[bytes]", request: bytes, seconds: float) -> bytes | None:
        """Return the line that answers a request, or None if the process ends or none comes in time."""
        assert process.stdin is not None, "a pipe was requested"
        assert process.stdout is not None, "a pipe was requested"
        deadline, line = time.monotonic() + seconds, b""
        try:
            process.stdin.write(request)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(process.stdout.fileno(), 4096) if readable else b""
            if not part:
                return None
            line += part
        return line

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None and self.owner == os.getpid():
            process.kill()
            process.communicate()


_lock = threading.Lock()
_current = _Worker()


def _worker() -> _Worker:
    global _current
    if _current.owner != os.getpid():  # a fork shares the pipes of its parent
        _current = _Worker()
    return _current


def stop_worker() -> None:
    """End the process of comparisons, if there is one; the next comparison starts another."""
    with _lock:
        _current.stop()


atexit.register(stop_worker)
