"""The engine's thread: decodes the responses of all requests, which enter and leave between two forwards."""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence

import torch

from dmaxlit.server.batch import JobBatch
from dmaxlit.server.errors import ApiError, internal_error, no_memory, out_of_time, queue_full, shutting_down
from dmaxlit.server.job import Job
from dmaxlit.server.limits import Limits
from dmaxlit.server.metrics import Metrics

_LOG = logging.getLogger("dmaxlit.server")
_MAX_BATCHES = 4  # each has a cache
_IDLE_SECONDS = 10.0  # that a batch keeps its cache without a job: a new one for every job would cost time


class Scheduler:
    """Decodes jobs in a thread of its own, in order of arrival, as many at a time as the limits allow.

    Args:
        limits: Of the server.
        metrics: Counts what happens.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._num_expected = 0
        self._cancelled: set[int] = set()
        self._stop_at: float | None = None  # by time.monotonic, once the server is to stop
        self._running: dict[int, Job] = {}  # of the engine's thread, like the batches
        self._batches: dict[Hashable, JobBatch] = {}
        self._thread = threading.Thread(target=self._run, name="dmaxlit-engine", daemon=True)

    # ---- called from other threads ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether new jobs are decoded."""
        return self._thread.is_alive() and self._stop_at is None

    @property
    def is_stopping(self) -> bool:
        """Whether what is being decoded may still end, and nothing else is."""
        return self._thread.is_alive() and self._stop_at is not None

    @property
    def num_running(self) -> int:
        """Number of jobs that are being decoded."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Number of jobs that wait for a place, those whose prompts are still being encoded among them."""
        return len(self._waiting) + self._num_expected

    @contextlib.contextmanager
    def expect(self, count: int) -> Iterator[None]:
        """Keep room in the queue for the jobs of a request while they are made.

        Args:
            count: Number of jobs.

        Raises:
            ApiError: If the queue has no room, or the server is about to stop.
        """
        with self._changed:
            self._check_room(count)
            self._num_expected += count
        try:
            yield
        finally:
            with self._changed:
                self._num_expected -= count

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs of a request, all or none.

        Raises:
            ApiError: If the queue has no room, or the server is about to stop.
        """
        with self._changed:
            self._check_room(len(jobs))
            self._waiting.extend(jobs)
            self._changed.notify()

    def _check_room(self, count: int) -> None:
        if not self.is_alive:
            raise shutting_down()
        free = self._limits.batch_size - len(self._running)
        if self.num_waiting + count > self._limits.max_waiting + max(free, 0):
            raise queue_full(self._limits.max_waiting)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Let jobs take part in no further forward; those that are done stay as they are."""
        with self._changed:
            self._cancelled |= {job.index for job in jobs}
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Refuse what waits and what comes; what is being decoded may end within some seconds."""
        with self._changed:
            stop_at = time.monotonic() + seconds
            self._stop_at = stop_at if self._stop_at is None else min(stop_at, self._stop_at)
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread to end, once it has been told to stop."""
        if self._thread.is_alive():
            self._thread.join()

    # ---- the engine's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._admit():
                    for key in [key for key, batch in self._batches.items() if batch.size]:
                        self._step(key)
        except Exception:
            _LOG.exception("the engine's thread has ended")
        finally:
            self.stop(0)
            with self._changed:
                self._fail_waiting(self._waiting, shutting_down())
            self._fail_running(self._running.values(), shutting_down())

    def _admit(self) -> bool:
        """Let jobs leave and enter; wait while there is nothing to do; return whether anything is left to decode."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._running or self._stop_at is not None,
                _IDLE_SECONDS if self._batches else None,
            )
            self._remove_cancelled()
            now = time.monotonic()
            self._drop_idle(now - _IDLE_SECONDS)
            late = out_of_time(self._limits.max_seconds)
            self._fail_running([job for job in self._running.values() if now > job.deadline], late)
            self._fail_waiting([job for job in self._waiting if now > job.deadline], late)
            if self._stop_at is not None:
                self._fail_waiting(self._waiting, shutting_down())
                if now >= self._stop_at:
                    self._fail_running(self._running.values(), shutting_down())
                return bool(self._running)
            while self._waiting and len(self._running) < self._limits.batch_size:
                if not self._enter(self._waiting[0]):
                    break
                self._waiting.popleft()
            return True

    def _remove_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, set()
        if not cancelled:
            return
        jobs = [job for job in (*self._running.values(), *self._waiting) if job.index in cancelled]
        self._drop(cancelled & self._running.keys())
        self._waiting = deque(job for job in self._waiting if job.index not in cancelled)
        # Where one response fails, the others of its request are cancelled too, though the client is there.
        self._metrics.aborted.inc(sum(not job.inbox.has_failed for job in jobs))

    def _enter(self, job: Job) -> bool:
        """Let a job enter a batch, or fail; return whether there was a batch for it."""
        key = job.sharing.batch
        if key not in self._batches:
            self._drop_idle()  # their caches are room for another
            if len(self._batches) == _MAX_BATCHES:
                return False
        elif self._batches[key].size and not self._batches[key].has_cache:
            return False  # if there is no memory for the cache of the first, the others shall not fail with it
        error = self._add(job)
        if error is not None:
            self._drop_idle()  # memory may be what lacks
            error = self._add(job)
        if error is not None:
            job.post(error)
        return True

    def _add(self, job: Job) -> ApiError | None:
        """Let a job enter a batch; return why it cannot, which is no matter of the others."""
        key = job.sharing.batch
        try:
            if key not in self._batches:
                self._batches[key] = JobBatch(job.engine, self._limits.batch_size, self._limits.max_length)
            self._batches[key].add(job)
        except MemoryError as error:
            _LOG.warning("a response cannot begin: %s", str(error))  # without its frames, which hold the cache
            return no_memory(job.request.length)
        except Exception:
            _LOG.exception("a response cannot begin")
            return internal_error()
        self._running[job.index] = job
        return None

    def _drop_idle(self, used_before: float = math.inf) -> None:
        """Drop the batches without jobs that were last used at some time or earlier, and so their caches."""
        for key in [key for key, batch in self._batches.items() if not batch.size and batch.used_at <= used_before]:
            del self._batches[key]

    def _step(self, key: Hashable) -> None:
        try:
            done = self._batches[key].step()
        except Exception as error:  # a full device, or a fault of ours: the other batches go on
            self._fail_batch(key, error)
            return
        self._metrics.forwards.inc()
        self._drop({job.index for job in done})

    def _fail_batch(self, key: Hashable, error: Exception) -> None:
        """Let the jobs of a batch fail, and free its cache and those that nobody uses: memory may be what lacks."""
        _LOG.exception("responses failed")
        batch = self._batches.pop(key)
        self._drop_idle()
        jobs = [job for job in self._running.values() if job.sharing.batch == key]
        is_too_long = isinstance(error, torch.OutOfMemoryError) and not batch.has_cache  # then it was alone
        self._fail_running(jobs, no_memory(jobs[0].request.length) if is_too_long else internal_error())

    def _fail_running(self, jobs: Iterable[Job], error: ApiError) -> None:
        jobs = list(jobs)
        for job in jobs:
            job.post(error)
        self._drop({job.index for job in jobs})

    def _fail_waiting(self, jobs: Iterable[Job], error: ApiError) -> None:
        failed = {job.index: job for job in jobs}
        for job in failed.values():
            job.post(error)
        if failed:
            self._waiting = deque(job for job in self._waiting if job.index not in failed)

    def _drop(self, indices: set[int]) -> None:
        """Let running jobs leave."""
        for index in indices:
            batch = self._batches.get(self._running.pop(index).sharing.batch)
            if batch is not None:  # else it has failed
                batch.discard(index)
