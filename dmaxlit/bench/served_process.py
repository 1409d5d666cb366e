"""``python -m dmaxlit serve`` in a process of its own, and what the system says about it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from dmaxlit.errors import UserError, reason_of

_STOP_SECONDS = 60
_DEATH_SECONDS = 1  # from the end of a process's connections to that of the process


class ServedProcess:
    """A server that runs.

    Args:
        process: Its process.
        url: Base URL of its clients.
    """

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self._process, self.url = process, url

    @property
    def resident_mib(self) -> float:
        """Memory of the process in MiB (VmRSS); nan where the system does not say, or if the process has ended."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return float("nan")
        sizes = re.findall(r"VmRSS:\s+(\d+) kB", status)
        return int(sizes[0]) / 1024 if sizes else float("nan")

    @property
    def cpu_seconds(self) -> float:
        """Seconds of all cores that the process has used; nan where the system does not say."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return float("nan")
        user, system = (int(ticks) for ticks in fields[11:13])
        return (user + system) / os.sysconf("SC_CLK_TCK")

    @property
    def exit_status(self) -> int | None:
        """Exit status of the process, or None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Send SIGTERM, and return the exit status of the process."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_STOP_SECONDS)


@contextlib.contextmanager
def served(*options: str) -> Iterator[ServedProcess]:
    """Serve a model at a free port, and end the process afterwards.

    Args:
        options: Options of ``dmaxlit serve``.

    Raises:
        UserError: If the server does not start, or does not answer a request within.
    """
    command = [sys.executable, "-m", "dmaxlit", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None, "a pipe was requested"
            line = process.stdout.readline()
            url = re.search(r"http://\S+", line)
            if url is None:
                raise UserError(f"serve: expected a server that starts, got exit status {process.wait()}")
            yield ServedProcess(process, url.group())
        except httpx.TransportError as error:
            try:
                reason = f"exit status {process.wait(_DEATH_SECONDS)}"
            except subprocess.TimeoutExpired:
                reason = reason_of(error, with_type=True)
            raise UserError(f"serve: expected a server that answers, got {reason}") from error
        finally:
            process.kill()
