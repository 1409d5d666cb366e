"""Speed of decoding, relative to plain loops in the same run: same weights, prompts and tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.bench.loops import cached_loop, naive_loop
from dmaxlit.bench.random_model import random_denoiser
from dmaxlit.bench.speed import SpeedBench
from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.errors import UserError

__all__ = ["DecodeSpeedBench"]

_MAX_NAIVE_LENGTH = 512  # tokens; beyond that the naive loop takes minutes


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
        peak_mib: Peak memory beyond the model's own, in MiB: of the process on a CPU, of torch on a GPU.
        tokens_hash: Hash of the tokens of the first prompt.
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

    The model has random weights, the decoder commits a fixed number of tokens per forward, and EOS is impossible, so
    that all do the same work. Each measurement runs in a new process, after a warm-up.

    Args:
        output: Folder for ``results.json`` and ``table.md``.
        batches: Batch sizes of the engine.
        lengths: Tokens generated; the first is used for the table of batch sizes.
        hidden_size: Width of the model, a multiple of ``head_dim``.
        head_dim: Width of an attention head; FlexAttention and GPUs prefer 64 or 128.
        layers: Number of layers.
        vocab_size: Size of the vocabulary.
        block_length: Tokens per block.
        tokens_per_step: Tokens committed at each forward, which is the TPF.
        dtype: ``float32`` or ``bfloat16``.
        device: ``cpu``, ``cuda``, ...
        compile: Time the engine with compiled forwards as well.
        repeats: Runs of each measurement. The fastest counts: other work on the machine has disturbed it least.
    """

    output: Path = Path("runs/decode_speed")
    batches: Sequence[int] = (1, 4, 16, 64)
    lengths: Sequence[int] = (512, 128, 2048)
    hidden_size: int = 128
    head_dim: int = 32
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
        """Return contestant, batch size and length of each measurement."""
        length = self.lengths[0]
        engines = ["engine", "compiled engine"] if self.compile else ["engine"]
        jobs = [
            ("naive loop", 1, length),
            ("cached loop", 1, length),
            *((engine, batch, length) for batch in self.batches for engine in engines),
        ]
        middle_batch = self.batches[min(2, len(self.batches) - 1)]
        for length in self.lengths[1:]:
            jobs.append(("cached loop", 1, length))
            jobs += [(engine, batch, length) for batch in sorted({1, middle_batch}) for engine in engines]
            if length <= _MAX_NAIVE_LENGTH:
                jobs.append(("naive loop", 1, length))
        return jobs

    def table(self, measurements: Sequence[Measurement]) -> str:
        """Format the measurements, with ratios to the cached loop at the same length."""
        return format_table(measurements)

    def measure(self, contestant: str, batch: int, length: int) -> Measurement:
        """Time one contestant in this process."""
        denoiser = self._denoiser(length)
        count = batch if "engine" in contestant else 2 if length == self.lengths[0] else 1
        prompts = self._prompts(count)
        weight_read_seconds = self._weight_read(denoiser)
        # The compiled engine compiles all its shapes in the warm-up.
        warm_up_length = length if contestant == "compiled engine" else self.block_length
        self._decode(denoiser, contestant, prompts, warm_up_length, batch)
        memory_before, times = self.memory(reset=True), []
        for _ in range(self.repeats):
            begin = self.now()
            responses, forwards = self._decode(denoiser, contestant, prompts, length, batch)
            times.append(self.now() - begin)
        seconds = min(times)
        assert all(len(response) == length for response in responses), "EOS is impossible"
        return Measurement(
            contestant=contestant,
            batch=batch,
            length=length,
            prompts=count,
            tokens_per_second=count * length / seconds,
            forwards=forwards,
            seconds_per_forward=seconds / forwards,
            weight_read_seconds=weight_read_seconds,
            peak_mib=self.memory() - memory_before,
            tokens_hash=hash(tuple(responses[0][: self.lengths[0]])),
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
            self.vocab_size, self.hidden_size, self.layers, self.block_length, positions, False, self.head_dim
        )
        with torch.no_grad():
            head = denoiser.model.get_output_embeddings().weight
            head[denoiser.special.eos_id] = 0.0  # a logit of 0, never the highest of thousands
        return denoiser.to(self.device, getattr(torch, self.dtype)).eval()

    def _prompts(self, count: int) -> list[list[int]]:
        """Make prompts of different lengths. Prompt i is the same whatever the count."""
        prompts = []
        for index in range(count):
            generator = torch.Generator().manual_seed(index)
            length = int(torch.randint(self.block_length // 2, 2 * self.block_length, (), generator=generator))
            prompts.append(torch.randint(0, self.vocab_size - 3, (length,), generator=generator).tolist())
        return prompts

    def _weight_read(self, denoiser: Denoiser) -> float:
        """Time reading as many bytes as the weights of the model hold."""
        size = sum(parameter.numel() * parameter.element_size() for parameter in denoiser.parameters())
        buffer = torch.zeros(size // 4, dtype=torch.float32, device=self.device)
        return self.fastest(buffer.sum)


class _CountForwards:
    """Counts the forwards of a model."""

    def __init__(self, denoiser: Denoiser, compiled: bool) -> None:
        self._attributes = denoiser.__dict__
        self._functions: dict[str, Any] = {"hidden": denoiser.hidden}
        if compiled:
            self._functions["compiled_hidden"] = denoiser.compiled_hidden
        self.count = 0

    def __enter__(self) -> None:
        self._attributes |= {name: self._counted(function) for name, function in self._functions.items()}

    def __exit__(self, *error: object) -> None:
        self._attributes |= self._functions

    def _counted(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args: Any, **kwargs: Any) -> Tensor:
            self.count += 1
            return function(*args, **kwargs)

        return counted


def format_table(measurements: Sequence[Measurement]) -> str:
    """Format measurements as a Markdown table, with ratios to the cached loop at the same length."""
    baselines = {item.length: item for item in measurements if item.contestant == "cached loop"}
    lines = [
        "| contestant | batch | tokens | tokens/s | to cached loop | forwards | ms per forward | weights read in ms "
        "| memory MiB | same tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for item in sorted(measurements, key=lambda item: (item.length, item.contestant != "naive loop", item.batch)):
        baseline = baselines[item.length]
        lines.append(
            f"| {item.contestant} | {item.batch} | {item.length} | {item.tokens_per_second:.0f} "
            f"| {item.tokens_per_second / baseline.tokens_per_second:.2f} | {item.forwards} "
            f"| {1000 * item.seconds_per_forward:.2f} | {1000 * item.weight_read_seconds:.2f} | {item.peak_mib:.0f} "
            f"| {'yes' if item.tokens_hash == baseline.tokens_hash else 'no'} |"
        )
    return "\n".join(lines)
