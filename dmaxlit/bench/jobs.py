"""Jobs of a benchmark, several at the same time, each in a process of its own."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol, TypeAlias

from tqdm import tqdm

from dmaxlit.errors import UserError

#: A model and its number: ``base`` or a method, and the number of the base or the training seed.
Job: TypeAlias = tuple[str, int]


class JobBench(Protocol):
    """A benchmark that is divided into jobs: a dataclass, exported by ``dmaxlit.bench``."""

    @property
    def workers(self) -> int:
        """Jobs at the same time."""

    @property
    def threads(self) -> int:
        """CPU threads of each of them."""

    def job(self, method: str, number: int) -> None:
        """Do a job; called in the job's process."""


def run_jobs(bench: JobBench, jobs: Sequence[Job], logs: Path, title: str) -> None:
    """Do jobs; what a job writes to its standard streams is appended to ``METHOD-NUMBER.log``.

    When one fails, or this process is interrupted or exits by a signal, those that are running are ended, and no other
    one is started.

    Args:
        bench: The benchmark.
        jobs: The jobs that are not done yet.
        logs: Folder of the logs.
        title: Title of the progress bar.

    Raises:
        UserError: If a job fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(bench.threads), "MKL_NUM_THREADS": str(bench.threads)}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(bench).items()}
    command = [sys.executable, "-m", "dmaxlit.bench", type(bench).__name__, json.dumps(settings)]
    logs.mkdir(parents=True, exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []
    is_ended = threading.Event()

    def start(job: Job) -> None:
        if is_ended.is_set():
            return
        method, number = job
        log = logs / f"{method}-{number}.log"
        with log.open("a") as stream:
            process = subprocess.Popen([*command, method, str(number)], env=environment, stdout=stream, stderr=stream)
            running.append(process)
            if is_ended.is_set():  # meanwhile, without this process
                process.terminate()
            process.wait()
        if process.returncode != 0 and not is_ended.is_set():
            is_ended.set()
            raise UserError(f"bench: {method} {number} failed with exit status {process.returncode}; see {log}")

    with ThreadPoolExecutor(bench.workers) as pool:
        try:
            futures = [pool.submit(start, job) for job in jobs]
            for future in tqdm(as_completed(futures), total=len(jobs), desc=title):
                future.result()
        except BaseException:
            is_ended.set()
            for process in running:
                process.terminate()
            raise
