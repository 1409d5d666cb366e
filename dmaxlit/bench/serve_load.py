"""A server under load: every response is compared with the one that generate gives alone."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from dmaxlit.bench.output_folder import holds_output, write_results
from dmaxlit.bench.serve_cases import Case, make_cases
from dmaxlit.bench.serve_clients import COUNTS, Clients, ask_all
from dmaxlit.bench.served_process import ServedProcess, served
from dmaxlit.decoding import DECODERS
from dmaxlit.engine import DecodeSettings
from dmaxlit.errors import UserError, check_at_least
from dmaxlit.loading import load, usable_device
from dmaxlit.module import DMaxModule
from dmaxlit.tasks.base import requested_examples
from dmaxlit.tasks.prompts import TemplatedPrompt

__all__ = ["ServeBench"]

_NUM_CASES = 60
_WARM_UP = 10.0  # seconds of load before memory is compared
_MAX_BODY_MIB = 0.05  # less than the largest of the malformed bodies
_PAUSE = 0.5  # seconds between two looks at memory, and before the server is idle


@dataclass
class Load:
    """What the clients counted.

    Args:
        clients: Clients at the same time.
        seconds: How long they worked.
        whole: Requests for whole responses.
        streamed: Requests for streams.
        aborted: Requests whose client left.
        malformed: Bodies that are no requests.
        wrong: Responses that are not the one of ``generate``.
        swapped: Responses to another request.
        lost: Requests without a response, and malformed ones that were not refused.
        left_running: Responses that the server still decoded at the end.
        rss_start: Memory of the server after ten seconds of load, in MiB.
        rss_end: Memory at the end.
        rss_peak: Most memory in between.
        exit_status: Of the server, after SIGTERM.
        reasons: Why responses were lost, and how many.
    """

    clients: int
    seconds: float
    whole: int = 0
    streamed: int = 0
    aborted: int = 0
    malformed: int = 0
    wrong: int = 0
    swapped: int = 0
    lost: int = 0
    left_running: int = 0
    rss_start: float = 0.0
    rss_end: float = 0.0
    rss_peak: float = 0.0
    exit_status: int | None = None
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class Throughput:
    """The server beside ``generate``, one right after the other.

    Args:
        generate_tokens_per_second: Of ``generate`` in the process of the clients, while the server was idle.
        server_tokens_per_second: Of the server, its clients on the same cores.
        ratio: The server's speed over that of ``generate``.
        cpu_ratio: Seconds of all cores that the server took, over those of ``generate``.
        more_tokens: Tokens that the server wrote more than ``generate``: none in float32; in half precision a near-tie
            may fall differently in another batch.
    """

    generate_tokens_per_second: float
    server_tokens_per_second: float
    ratio: float
    cpu_ratio: float
    more_tokens: int = 0


@dataclass
class ServeBench:
    """Load a server with clients that ask, stream, leave and send nonsense; compare every answer, memory and speed.

    The server is dmaxlit serve in a process of its own. Each answer is compared with the one that generate gives alone,
    token by token; and the server's speed with that of generate at the same batch, on the same cores, one after the
    other.

    Args:
        output: Folder for results.json and table.md.
        model: Folder, .ckpt file, hub id or builtin:NAME of a model that was trained on a task.
        clients: Clients at the same time, and the batch of both when speed is compared.
        minutes: How long the clients work.
        decoder: Decoder when speed is compared.
        num_prompts: Prompts of a comparison of speed.
        repeats: Comparisons of speed.
        device: cpu, cuda, ...; of both models.
        dtype: Type of the weights.
        seed: Seed of what the clients do.
    """

    output: Path = Path("runs/serve")
    model: str = "builtin:chain-base"
    clients: int = 32
    minutes: float = 3.0
    decoder: str = "threshold"
    num_prompts: int = 128
    repeats: int = 7
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings before anything is loaded."""
        self.output = Path(self.output)
        check_at_least(1, clients=self.clients, num_prompts=self.num_prompts, repeats=self.repeats)
        check_at_least(0, minutes=self.minutes)
        if self.decoder not in DECODERS:  # the server takes no import path
            raise UserError(f"decoder: expected a registered one ({', '.join(DECODERS)}), got {self.decoder!r}")
        self.device = usable_device(self.device)

    @holds_output
    def run(self) -> str:
        """Run the load and the comparison, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If the model was not trained on a task or cannot be decoded so; or if the server ends by itself.
        """
        module = load(self.model, device=self.device, dtype=self.dtype, probe=False)
        task = module.task()
        if task is None:
            raise UserError(f"model: expected one that was trained on a task, got {self.model!r}")
        prompts = [example.prompt for example in requested_examples(task, "test", self.num_prompts, "num_prompts")]
        settings = DecodeSettings(self.decoder, max_new_tokens=task.max_new_tokens, batch_size=self.clients)
        settings.make_engine(module.backbone)  # refuses a decoder that the model cannot use, before the load
        options = ("--model", self.model, "--device", self.device, "--dtype", self.dtype, "--probe", "false")
        with served(*options, "--batch_size", str(self.clients), "--max_body_mib", str(_MAX_BODY_MIB)) as server:
            figures = asyncio.run(self._load(server, make_cases(module, prompts[:_NUM_CASES], self.seed)))
            speed = [self._compare(server, module, prompts, settings) for _ in range(self.repeats)]
            figures.exit_status = server.stop()
        table = format_table([figures], speed)
        recorded = {name: value for name, value in vars(self).items() if name != "output"}
        content = {"settings": recorded, "load": [asdict(figures)], "speed": [asdict(item) for item in speed]}
        write_results(self.output, content, table)
        return table

    async def _load(self, server: ServedProcess, cases: Sequence[Case]) -> Load:
        seconds = 60 * self.minutes
        await Clients(server.url, cases, self.seed + self.clients).work(self.clients, min(_WARM_UP, seconds))
        clients, memory = Clients(server.url, cases, self.seed), [server.resident_mib]
        working = asyncio.ensure_future(clients.work(self.clients, seconds))
        while not working.done():
            await asyncio.wait({working}, timeout=_PAUSE)
            memory.append(server.resident_mib)
            status = server.exit_status
            if status is not None:
                counts = ", ".join(f"{clients.counts[kind]} {kind}" for kind in COUNTS)
                raise UserError(f"serve: expected a server that lasts, got exit status {status} after {counts}")
        await working
        await asyncio.sleep(_PAUSE)
        async with httpx.AsyncClient() as http:
            health = (await http.get(server.url.removesuffix("/v1") + "/health")).json()
        return Load(
            clients=self.clients,
            seconds=seconds,
            **{kind: clients.counts[kind] for kind in COUNTS},
            left_running=health["running"] + health["waiting"],
            rss_start=memory[0],
            rss_end=memory[-1],
            rss_peak=max(memory),
            reasons=dict(clients.reasons),
        )

    def _compare(
        self, server: ServedProcess, module: DMaxModule, prompts: Sequence[str], settings: DecodeSettings
    ) -> Throughput:
        """Time ``generate`` and the server on the same prompts, one after the other."""
        begin, cpu_begin = time.perf_counter(), time.process_time()
        generations = module.generate_batch([TemplatedPrompt(prompt) for prompt in prompts], settings)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
        expected = sum(generation.num_tokens for generation in generations)

        shared = {"max_tokens": settings.max_new_tokens, "decoder": self.decoder}
        bodies = [{"prompt": prompt, **shared} for prompt in prompts]
        begin, cpu_begin = time.perf_counter(), server.cpu_seconds
        # As many again wait as are decoded, so that a place that gets free is taken at once, as by generate's queue.
        tokens = asyncio.run(ask_all(server.url, bodies, 2 * self.clients))
        server_seconds, server_cpu = time.perf_counter() - begin, server.cpu_seconds - cpu_begin
        rates = expected / seconds, tokens / server_seconds
        return Throughput(*rates, rates[1] / rates[0], server_cpu / cpu, tokens - expected)


def format_table(loads: Sequence[Load], speed: Sequence[Throughput]) -> str:
    """Format the load, and the medians of the comparisons of speed, as two Markdown tables."""
    lines = [
        "| clients | minutes | whole | streamed | aborted | malformed | wrong | swapped | lost | left running "
        "| RSS in MiB, start / end / peak | exit status |",
        "|" + "---|" * 12,
    ]
    for item in loads:
        lines.append(
            f"| {item.clients} | {item.seconds / 60:g} | {item.whole} | {item.streamed} | {item.aborted} "
            f"| {item.malformed} | {item.wrong} | {item.swapped} | {item.lost} | {item.left_running} "
            f"| {item.rss_start:.0f} / {item.rss_end:.0f} / {item.rss_peak:.0f} | {item.exit_status} |"
        )
    lines += ["", "| | generate, tokens/s | server, tokens/s | ratio | ratio of CPU seconds | more tokens |"]
    lines += ["|" + "---|" * 6]
    for name, choose in (("median", statistics.median), ("least", min), ("most", max)):
        figures = [choose(getattr(item, column) for item in speed) for column in Throughput.__dataclass_fields__]
        lines.append(
            f"| {name} | {figures[0]:.0f} | {figures[1]:.0f} | {figures[2]:.2f} | {figures[3]:.2f} | {figures[4]:g} |"
        )
    return "\n".join(lines)
