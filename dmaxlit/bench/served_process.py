"""``python -m dmaxlit serve`` in a process of its own, and what the system says about it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dmaxlit.errors import UserError

_STOP_SECONDS = 60


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
        """Memory of the process in MiB (VmRSS); nan where the system does not say."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return float("nan")
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """Seconds of all cores that the process has used; nan where the system does not say."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        user, system = (int(ticks) for ticks in fields[11:13])
        return (user + system) / os.sysconf("SC_CLK_TCK")

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
        UserError: If the server does not start.
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
        finally:
            process.kill()
