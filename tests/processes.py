"""Processes for tests that need several, or one to kill: forked by one that has imported everything."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
#: Of a new process; without the port of a trainer that has run in this one, which may still listen.
ENVIRONMENT = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}


def rank_of_torchrun(rank, ranks, port):
    """Return what torchrun tells a rank."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(value) for name, value in names.items()}


def rank_of_slurm(rank, ranks, port):
    """Return what SLURM tells a task of a job on one node."""
    names = {"SLURM_NTASKS": ranks, "SLURM_NTASKS_PER_NODE": ranks, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
    names |= {"SLURM_NODEID": 0, "SLURM_JOB_ID": 7, "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}
    return {name: str(value) for name, value in {**names, "MASTER_PORT": port}.items()}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """Starts ``python -m MODULE ARGS`` as one process or as several ranks, one such command at a time."""

    def __init__(self):
        command = [sys.executable, "-m", "tests.process_server"]
        self._server = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._running = []

    def start(
        self,
        args,
        log,
        *,
        module="dmaxlit",
        folder=ROOT,
        environment=None,
        ranks=None,
        starter=rank_of_torchrun,
        die_in_write=-1,
    ):
        """Start a command; return the ids of its processes.

        Args:
            args: Arguments of the module.
            log: File for the output of a process that is alone; that of rank r goes to ``<log>.<r>``.
            module: What to run.
            folder: Where to run it.
            environment: More variables of the environment.
            ranks: Number of ranks; None for one process to which no starter has said its rank.
            starter: Returns what is in the environment of a rank.
            die_in_write: The process is killed while it writes its n-th file to the disk.
        """
        self._end_running()
        variables, port = ENVIRONMENT | (environment or {}), free_port()
        of_ranks = [{}] if ranks is None else [starter(rank, ranks, port) for rank in range(ranks)]
        request = {
            "module": module,
            "args": list(map(str, args)),
            "folder": str(folder),
            "environments": [variables | more for more in of_ranks],
            "logs": [str(log)] if ranks is None else [f"{log}.{rank}" for rank in range(ranks)],
            "die_in_write": die_in_write,
        }
        print(json.dumps(request), file=self._server.stdin, flush=True)
        self._running = json.loads(self._server.stdout.readline())
        return self._running

    def _end_running(self):
        """Kill the processes of a test that failed before they ended."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if self._running:
            self.wait()

    def wait(self):
        """Return the exit codes of what was started last, when all its processes have ended."""
        codes = json.loads(self._server.stdout.readline())
        self._running = []
        return codes

    def run(self, args, log, **options):
        """Start a command, wait, and return its exit codes."""
        self.start(args, log, **options)
        return self.wait()

    def close(self):
        """End the server, and what is still running."""
        self._end_running()
        self._server.communicate()
