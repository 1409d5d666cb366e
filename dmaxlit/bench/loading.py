"""Time and memory of a start on a corpus: encoded in memory, encoded into the cache, and mapped from the cache."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dmaxlit.bench.output_folder import holds_output
from dmaxlit.bench.speed import SpeedBench
from dmaxlit.data.corpora import Corpora
from dmaxlit.data.dataset import Collate
from dmaxlit.data.encoded_corpus import encoded_in_cache, encoded_in_memory
from dmaxlit.data.row_encoding import RowEncoder
from dmaxlit.data.sampling import ResumableLoader, RowSampler
from dmaxlit.errors import UserError, check_at_least
from dmaxlit.files import remove
from dmaxlit.tasks import ChainTask

__all__ = ["LoadingBench"]

_IN_MEMORY, _COLD, _WARM = "in memory", "cache, first start", "cache, later start"
_DISTINCT = 100_000  # rows, which repeat beyond
_BLOCK, _LENGTH = 32, 128


@dataclass(frozen=True)
class Start:
    """One start.

    Args:
        rows: Rows of the corpus.
        way: ``in memory``; ``cache, first start``, which encodes; or ``cache, later start``.
        setup_seconds: Time until the rows are there.
        first_batch_seconds: Time from then to the first batch.
        rows_per_second: Rows of the batches after it, in the order of an epoch.
        memory_mib: Memory of this process alone that the rows take, after these batches, in MiB.
        mapped_mib: Pages of files that it maps beyond those before, in MiB; the system drops them at need.
    """

    rows: int
    way: str
    setup_seconds: float
    first_batch_seconds: float
    rows_per_second: float
    memory_mib: float
    mapped_mib: float


@dataclass
class LoadingBench(SpeedBench):
    """Start on corpora of more and more rows: encoded in memory, encoded into the cache, and mapped from it.

    The rows are those of the chain task. Each start runs in a new process, which sets up the data as fit does and reads
    batches. A million rows need about 1 GB of disk, for the corpus and its cache; both are removed.

    Args:
        output: Folder for results.json and table.md.
        sizes: Numbers of rows.
        num_proc: Processes that encode into the cache. Default: one for each core, at most 16.
        batch_size: Rows of a batch.
        batches: Batches that are read after the first.
    """

    output: Path = Path("runs/loading")
    sizes: Sequence[int] = (10_000, 100_000, 1_000_000)
    num_proc: int | None = None
    batch_size: int = 32
    batches: int = 500
    device = "cpu"

    def __post_init__(self) -> None:
        """Check the settings before a corpus is written."""
        self.output = Path(self.output)
        if not self.sizes or min(self.sizes) <= self.batch_size:
            raise UserError(f"sizes: expected numbers above batch_size {self.batch_size}, got {list(self.sizes)}")
        check_at_least(1, num_proc=self.num_proc, batch_size=self.batch_size, batches=self.batches)
        if not Path("/proc/self/status").exists():
            raise UserError("bench loading: expected Linux, which tells a process's own memory from mapped files")

    @holds_output
    def run(self) -> str:
        """Write the corpora, measure, write the results, and return the table."""
        try:
            remove(self._folder)  # of a run that was killed
            self._folder.mkdir()
            for size in self.sizes:
                write_corpus(self._corpus(size), size)
            return super().run()
        finally:
            remove(self._folder)

    def jobs(self) -> list[tuple[Any, ...]]:
        """Return rows and way of each start."""
        return [(size, way) for size in self.sizes for way in (_IN_MEMORY, _COLD, _WARM)]

    def table(self, measurements: Sequence[Start]) -> str:
        """Format the measurements, with ratios to the start in memory."""
        return format_table(measurements)

    def measure(self, rows: int, way: str) -> Start:
        """Start once in this process."""
        corpus = Corpora([str(self._corpus(rows))], "train", {}, None, 0)
        tokenizer = ChainTask.tokenizer()
        encoder = RowEncoder(tokenizer, _BLOCK, _LENGTH, "block", "error")
        memory, mapped = _memory()
        begin = time.perf_counter()
        if way == _IN_MEMORY:
            pairs = encoded_in_memory(corpus, encoder)
        else:
            pairs = encoded_in_cache(corpus, encoder, corpus.files(), str(self._folder / "cache"), self.num_proc)
        is_there = time.perf_counter()
        collate = Collate(tokenizer.eos_token_id, tokenizer.eos_token_id, _BLOCK)
        loader = iter(ResumableLoader(pairs, RowSampler(len(pairs), self.batch_size), collate_fn=collate))
        next(loader)
        first = time.perf_counter()
        number = sum(len(batch["index"]) for batch in islice(loader, self.batches))
        end = time.perf_counter()
        memory_after, mapped_after = _memory()
        return Start(
            rows=rows,
            way=way,
            setup_seconds=is_there - begin,
            first_batch_seconds=first - is_there,
            rows_per_second=number / (end - first),
            memory_mib=memory_after - memory,
            mapped_mib=mapped_after - mapped,
        )

    @property
    def _folder(self) -> Path:
        return self.output / "corpora"

    def _corpus(self, rows: int) -> Path:
        return self._folder / f"{rows}.jsonl"


def write_corpus(path: Path, rows: int) -> None:
    """Write rows of the chain task; beyond 100,000 they repeat.

    Args:
        path: The file.
        rows: Number of rows.
    """
    examples = ChainTask().examples("train", min(rows, _DISTINCT))
    lines = [json.dumps({"prompt": example.prompt, "response": example.response}) + "\n" for example in examples]
    with path.open("w") as file:
        for number in range(rows):
            file.write(lines[number % len(lines)])


def format_table(starts: Sequence[Start]) -> str:
    """Format starts as a Markdown table, with ratios to the start in memory."""
    baselines = {start.rows: start for start in starts if start.way == _IN_MEMORY}
    lines = [
        "| rows | start | set-up s | ratio | first batch s | rows/s | own memory MiB | ratio | mapped MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for start in starts:
        baseline = baselines[start.rows]
        lines.append(
            f"| {start.rows:,} | {start.way} | {start.setup_seconds:.2f} "
            f"| {start.setup_seconds / baseline.setup_seconds:.2f} | {start.first_batch_seconds:.3f} "
            f"| {start.rows_per_second:.0f} | {start.memory_mib:.0f} "
            f"| {start.memory_mib / max(baseline.memory_mib, 1):.2f} | {start.mapped_mib:.0f} |"
        )
    return "\n".join(lines)


def _memory() -> tuple[float, float]:
    """Return the memory of this process alone, and its pages of mapped files, in MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    anonymous, mapped = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return anonymous, mapped
