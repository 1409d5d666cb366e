"""How fast the engine decodes, against plain loops in the same run: same weights, prompts and tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.bench.loops import cached_loop, naive_loop
from dmaxlit.bench.machine import random_denoiser
from dmaxlit.bench.speed import SpeedBench
from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.errors import UserError

__all__ = ["DecodeSpeedBench", "Measurement", "format_table"]

_NAIVE_UP_TO = 512  # tokens; beyond, recomputing everything takes minutes


@dataclass(frozen=True)
class Measurement:
    """One contestant at one batch size and length.

    Args:
        contestant: ``engine``, ``compiled engine``, ``cached loop`` or ``naive loop``.
        batch: Prompts that share a forward.
        length: Tokens generated for each prompt.
        prompts: Prompts decoded.
        tokens_per_second: Over all prompts.
        forwards: Forwards of the model.
        seconds_per_forward: Mean.
        weight_read_seconds: Time to read all weights of the model once from memory.
        peak_mib: Memory beyond the model's own at the highest, in MiB: the process's on a CPU, torch's on a GPU.
        tokens_hash: The same for the same tokens of the first prompt.
    """

    contestant: str
    batch: int
    length: int
    prompts: int
    tokens_per_second: float
    forwards: int
    seconds_per_forward: float
    weight_read_seconds: float
    peak_mib: float
    tokens_hash: int


@dataclass
class DecodeSpeedBench(SpeedBench):
    """Time the engine against a cached and an uncached loop over single prompts.

    The model has random weights, the decoder commits a fixed number of tokens a forward, and EOS cannot come, so that
    all do the same work. Each measurement runs in a process of its own, after a warm-up.

    Args:
        output: Folder for ``results.json`` and ``table.md``.
        batches: Batch sizes of the engine.
        lengths: Tokens generated; the first is used for the table of batch sizes.
        hidden_size: Width of the model, a multiple of 32.
        layers: Its layers.
        vocab_size: Its vocabulary.
        block_length: Tokens per block.
        tokens_per_step: Tokens committed at each forward, which is the TPF.
        dtype: ``float32`` or ``bfloat16``.
        device: ``cpu``, ``cuda``, ...
        compile: Time the engine with compiled forwards as well.
        repeats: Times each measurement is made; the fastest counts, which other work on the machine disturbed least.
    """

    output: Path = Path("runs/decode_speed")
    batches: Sequence[int] = (1, 4, 16, 64)
    lengths: Sequence[int] = (512, 128, 2048)
    hidden_size: int = 128
    layers: int = 4
    vocab_size: int = 4096
    block_length: int = 32
    tokens_per_step: int = 4
    dtype: str = "float32"
    device: str = "cpu"
    compile: bool = False
    repeats: int = 3

    def __post_init__(self) -> None:
        """Check the settings before anything is timed."""
        self.output = Path(self.output)
        self.check("hidden_size", "layers", "block_length", "tokens_per_step", "repeats")
        for name in ("batches", "lengths"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise UserError(f"{name}: expected numbers of at least 1, got {list(getattr(self, name))}")

    def jobs(self) -> list[tuple[Any, ...]]:
        """Contestant, batch size and length."""
        first = self.lengths[0]
        engines = ["engine", "compiled engine"] if self.compile else ["engine"]
        jobs = [
            ("naive loop", 1, first),
            ("cached loop", 1, first),
            *((engine, batch, first) for batch in self.batches for engine in engines),
        ]
        middle = self.batches[min(2, len(self.batches) - 1)]
        for length in self.lengths[1:]:
            jobs.append(("cached loop", 1, length))
            jobs += [(engine, batch, length) for batch in sorted({1, middle}) for engine in engines]
            if length <= _NAIVE_UP_TO:
                jobs.append(("naive loop", 1, length))
        return jobs

    def table(self, measurements: Sequence[Measurement]) -> str:
        """Ratios are to the cached loop at the same length."""
        return format_table(measurements)

    def measure(self, contestant: str, batch: int, length: int) -> Measurement:
        """Time one contestant in this process."""
        denoiser = self._denoiser(length)
        count = batch if "engine" in contestant else 2 if length == self.lengths[0] else 1
        prompts = self._prompts(count)
        read = self._weight_read(denoiser)
        if contestant == "compiled engine":  # which meets all its shapes beforehand
            self._decode(denoiser, contestant, prompts, length, batch)
        else:
            self._decode(denoiser, contestant, prompts, self.block_length, batch)
        before, times = self.memory(), []
        for _ in range(self.repeats):
            begin = self.now()
            responses, forwards = self._decode(denoiser, contestant, prompts, length, batch)
            times.append(self.now() - begin)
        seconds = min(times)
        assert all(len(response) == length for response in responses), "EOS cannot come"
        return Measurement(
            contestant,
            batch,
            length,
            count,
            count * length / seconds,
            forwards,
            seconds / forwards,
            read,
            self.memory() - before,
            hash(tuple(responses[0][: self.lengths[0]])),
        )

    def _decode(
        self, denoiser: Denoiser, contestant: str, prompts: list[list[int]], length: int, batch: int
    ) -> tuple[list[list[int]], int]:
        compiled = contestant == "compiled engine"
        counter = _CountForwards(denoiser, compiled)
        if "engine" in contestant:
            decoder = ThresholdDecoder(0.0, max_tokens=self.tokens_per_step)
            engine = BlockDecoder(denoiser, decoder, batch_size=batch, compile=compiled)
            with counter:
                rows = engine.decode(prompts, length)
            return [row.token_ids for row in rows], counter.count
        loop = naive_loop if contestant == "naive loop" else cached_loop
        with torch.no_grad(), counter:
            return [loop(denoiser, prompt, length, self.tokens_per_step) for prompt in prompts], counter.count

    def _denoiser(self, length: int) -> Denoiser:
        positions = 4 * self.block_length + max(length, *self.lengths)
        denoiser = random_denoiser(
            self.vocab_size, self.hidden_size, self.layers, self.block_length, positions, tied=False
        )
        with torch.no_grad():
            head = denoiser.model.get_output_embeddings().weight
            head[denoiser.special.eos_id] = 0.0  # logit 0, which is never the highest of thousands
        return denoiser.to(self.device, getattr(torch, self.dtype)).eval()

    def _prompts(self, count: int) -> list[list[int]]:
        """Ragged prompts; the same first ones whatever the count."""
        prompts = []
        for index in range(count):
            generator = torch.Generator().manual_seed(index)
            length = int(torch.randint(self.block_length // 2, 2 * self.block_length, (), generator=generator))
            prompts.append(torch.randint(0, self.vocab_size - 3, (length,), generator=generator).tolist())
        return prompts

    def _weight_read(self, denoiser: Denoiser) -> float:
        """Time to read as many bytes as the model's weights hold, the best of five."""
        size = sum(parameter.numel() * parameter.element_size() for parameter in denoiser.parameters())
        buffer = torch.zeros(size // 4, dtype=torch.float32, device=self.device)
        times = []
        for _ in range(5):
            begin = self.now()
            buffer.sum()
            times.append(self.now() - begin)
        return min(times)


class _CountForwards:
    """Counts the forwards of a model."""

    def __init__(self, denoiser: Denoiser, compiled: bool) -> None:
        self._attributes = denoiser.__dict__
        self._runs: dict[str, Any] = {"hidden": denoiser.hidden}
        if compiled:
            self._runs["compiled_hidden"] = denoiser.compiled_hidden
        self.count = 0

    def __enter__(self) -> None:
        self._attributes |= {name: self._counted(run) for name, run in self._runs.items()}

    def __exit__(self, *error: object) -> None:
        self._attributes |= self._runs

    def _counted(self, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args: Any, **kwargs: Any) -> Tensor:
            self.count += 1
            return run(*args, **kwargs)

        return counted


def format_table(measurements: Sequence[Measurement]) -> str:
    """A markdown table; ratios are to the cached loop at the same length."""
    base = {item.length: item for item in measurements if item.contestant == "cached loop"}
    lines = [
        "| contestant | batch | tokens | tokens/s | to cached loop | forwards | ms a forward | weights read in ms "
        "| memory MiB | same tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for item in sorted(measurements, key=lambda item: (item.length, item.contestant != "naive loop", item.batch)):
        loop = base[item.length]
        lines.append(
            f"| {item.contestant} | {item.batch} | {item.length} | {item.tokens_per_second:.0f} "
            f"| {item.tokens_per_second / loop.tokens_per_second:.2f} | {item.forwards} "
            f"| {1000 * item.seconds_per_forward:.2f} | {1000 * item.weight_read_seconds:.2f} | {item.peak_mib:.0f} "
            f"| {'yes' if item.tokens_hash == loop.tokens_hash else 'no'} |"
        )
    return "\n".join(lines)
