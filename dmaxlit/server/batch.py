"""The jobs that share forwards of the model."""

import logging
import time
from collections.abc import Hashable

from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.lane import Lane
from dmaxlit.engine.sampler import Sampler, SamplerPerPrompt
from dmaxlit.server.errors import internal_error
from dmaxlit.server.job import Job

_LOG = logging.getLogger("dmaxlit.server")


class JobBatch:
    """Jobs that share forwards, with a lane for each decoder and its options.

    Args:
        engine: Settings of one of the jobs.
        num_rows: Most jobs at the same time.
        limit: Most positions of a job's prompt and response; None for the model's context.

    Attributes:
        used_at: When a job was last added or decoded, by ``time.monotonic``.
        has_cache: Whether there has been a forward, the first of which makes the cache.
    """

    def __init__(self, engine: BlockDecoder, num_rows: int, limit: int | None) -> None:
        self._batch = engine.make_batch(num_rows, limit=limit)
        self._jobs: dict[int, Job] = {}
        self._lanes: dict[Hashable, Lane] = {}
        self._samplers: dict[int, Sampler] = {}
        self._committed: dict[int, str] = {}
        self.used_at = time.monotonic()
        self.has_cache = False

    @property
    def size(self) -> int:
        """Number of jobs that are being decoded."""
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """Let a job take part from the next forward on.

        Raises:
            MemoryError: If there is no memory for a job of its length; the others can go on.
        """
        key = job.sharing.lane
        lane = self._lanes[key] if key in self._lanes else job.engine.make_lane(SamplerPerPrompt(self._samplers))
        self._batch.add(job.request, lane)
        self._lanes[key] = lane
        self._jobs[job.index], self._samplers[job.index] = job, job.sampler
        self._committed[job.index] = ""
        self.used_at = time.monotonic()

    def discard(self, index: int) -> None:
        """Let the job of that index, if it is here, take part in no further forward."""
        job = self._jobs.pop(index, None)
        if job is None:
            return
        del self._samplers[index], self._committed[index]
        self._batch.discard(index)
        if all(other.sharing.lane != job.sharing.lane for other in self._jobs.values()):
            self._lanes.pop(job.sharing.lane).warn_of_limit()

    def step(self) -> list[Job]:
        """Run one forward, post the drafts that are wanted, and return the jobs that are done or have failed."""
        done = []
        for event in self._batch.step().values():
            for index in dict.fromkeys(event.prompt_indices):
                job = self._jobs[index]
                if index in event.failed:
                    _LOG.error("a response failed: %s", event.failed[index])
                    job.post(internal_error())
                    done.append(job)
                    continue
                if index in event.finished:
                    done.append(job)
                elif not job.reads_committed:
                    continue
                draft = job.writer.draft(event, job.reads_provisional)
                if index in event.finished or job.reads_provisional or draft.committed != self._committed[index]:
                    self._committed[index] = draft.committed
                    job.post(draft)
        self.used_at, self.has_cache = time.monotonic(), True
        return done
