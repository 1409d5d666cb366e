"""Speed of decoding, relative to other procedures in the same run: same weights, prompts and tokens."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.bench.batch_loops import diffusers_pipeline, dllm_loop
from dmaxlit.bench.loops import cached_loop, naive_loop
from dmaxlit.bench.model_work import linear_operations, share_outside
from dmaxlit.bench.random_model import random_denoiser
from dmaxlit.bench.speed import SpeedBench
from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.errors import DMaxWarning, UserError

__all__ = ["DecodeSpeedBench"]

_MAX_NAIVE_LENGTH = 512  # tokens; beyond that the naive loop takes minutes
_MOST_UNCACHED = 2048  # tokens of a batch, likewise for the pipeline of diffusers
_SINGLE = {"naive loop": naive_loop, "cached loop": cached_loop}
_BATCHED = {"dllm": dllm_loop, "diffusers": diffusers_pipeline}


@dataclass(frozen=True)
class Measurement:
    """One contestant at one batch size and length.

    Args:
        contestant: ``engine``, ``compiled engine``, ``cached loop``, ``naive loop``, ``dllm`` or ``diffusers``.
        batch: Prompts that share a forward.
        length: Tokens generated for each prompt.
        prompts: Prompts decoded.
        tokens_per_second: Over all prompts.
        forwards: Forwards of the model.
        seconds_per_forward: Mean.
        weight_read_seconds: Time to read all weights of the model once from memory.
        peak_mib: Peak memory beyond the model's own, in MiB: of the process on a CPU, of torch on a GPU.
        tokens_hash: Hash of the tokens of the first prompt.
        outside_model: Share of process time outside the forwards of embedding, transformer and head; None on a GPU and
            for compiled forwards.
        matmul_share: Operations of the linear layers per second, over the speed of one large matrix product; None in
            results of older versions.
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
    outside_model: float | None = None
    matmul_share: float | None = None


@dataclass
class DecodeSpeedBench(SpeedBench):
    """Time the engine against loops over single prompts, and against the batches of dllm and diffusers.

    Weights, prompts and tokens are the same for all: the model has random weights, and a fixed number of tokens is
    committed at each forward; prompts are whole blocks, and EOS is impossible. Each measurement runs in a new process,
    after a warm-up. The pipeline of diffusers is left out where the library is not installed. With one thread
    (OMP_NUM_THREADS=1) the time is the process's own.

    Args:
        output: Folder for results.json and table.md.
        batches: Batch sizes of the engine.
        lengths: Tokens generated for each prompt; the first is used for the table of batch sizes.
        hidden_size: Width of the model, a multiple of head_dim.
        head_dim: Width of an attention head; FlexAttention and GPUs prefer 64 or 128.
        layers: Number of layers.
        vocab_size: Size of the vocabulary.
        block_length: Tokens per block.
        tokens_per_step: Tokens committed at each forward, which is the TPF.
        dtype: Type of weights and activations.
        device: cpu, cuda, ...
        compile: Time the engine with compiled forwards as well.
        repeats: Runs of each measurement; the fastest counts.
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
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    compile: bool = False
    repeats: int = 3

    def __post_init__(self) -> None:
        """Check the settings before anything is timed."""
        self.output = Path(self.output)
        self.check("hidden_size", "layers", "block_length", "tokens_per_step", "repeats")
        if self.vocab_size < 8:
            raise UserError(f"vocab_size: expected at least 8, got {self.vocab_size}")
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
        middle_batches = sorted({1, self.batches[min(2, len(self.batches) - 1)]})
        for length in self.lengths[1:]:
            jobs.append(("cached loop", 1, length))
            jobs += [(engine, batch, length) for batch in middle_batches for engine in engines]
            if length <= _MAX_NAIVE_LENGTH:
                jobs.append(("naive loop", 1, length))
        jobs += [("dllm", batch, length) for length in self.lengths for batch in middle_batches]
        if find_spec("diffusers") is None:
            warnings.warn(
                "diffusers is not installed (pip install -e '.[dev]'): its pipeline is left out",
                DMaxWarning,
                stacklevel=2,
            )
            return jobs
        sizes = [(batch, length) for length in self.lengths for batch in middle_batches]
        return jobs + [("diffusers", batch, length) for batch, length in sizes if batch * length <= _MOST_UNCACHED]

    def table(self, measurements: Sequence[Measurement]) -> str:
        """Format the measurements, with ratios to the cached loop at the same length."""
        return format_table(measurements)

    def measure(self, contestant: str, batch: int, length: int) -> Measurement:
        """Time one contestant in this process."""
        denoiser = self._denoiser(length)
        count = 1 if contestant in _SINGLE else batch
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
        # The work of a compiled engine is that of the engine.
        run = partial(self._decode, denoiser, contestant.removeprefix("compiled "), prompts, length, batch)
        is_timed = torch.device(self.device).type == "cpu" and contestant != "compiled engine"
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
            outside_model=share_outside(denoiser, run) if is_timed else None,
            matmul_share=linear_operations(denoiser, run) / seconds / self.matmul_speed(self.dtype),
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
        with torch.no_grad(), counter:
            if contestant in _BATCHED:
                return _BATCHED[contestant](denoiser, prompts, length, self.tokens_per_step), counter.count
            loop = _SINGLE[contestant]
            return [loop(denoiser, prompt, length, self.tokens_per_step) for prompt in prompts], counter.count

    def _denoiser(self, length: int) -> Denoiser:
        positions = 4 * self.block_length + max(length, *self.lengths)
        denoiser = random_denoiser(
            self.vocab_size,
            self.hidden_size,
            self.layers,
            self.block_length,
            positions,
            tied=False,
            head_dim=self.head_dim,
            device=self.device,
        )
        with torch.no_grad():
            head = denoiser.model.get_output_embeddings().weight
            head *= 30  # confidences from 0 to 1: none are so close that procedures order them otherwise
            head[denoiser.special.eos_id] = 0.0  # a logit of 0, never the highest of thousands
        return denoiser.to(self.device, getattr(torch, self.dtype)).eval()

    def _prompts(self, count: int) -> list[list[int]]:
        """Make prompts of one block and of two. Prompt i is the same whatever the count."""
        prompts = []
        for index in range(count):
            generator = torch.Generator().manual_seed(index)
            length = self.block_length * int(torch.randint(1, 3, (), generator=generator))
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
    has_shares = any(item.matmul_share is not None for item in measurements)
    lines = [
        "| contestant | batch | tokens | tokens/s | to cached loop | forwards | ms per forward |"
        + " outside model | share of matmul speed |" * has_shares
        + " weights read in ms | memory MiB | same tokens |",
        "|" + "---|" * (12 if has_shares else 10),
    ]
    for item in sorted(measurements, key=lambda item: (item.length, item.contestant != "naive loop", item.batch)):
        baseline = baselines[item.length]
        lines.append(
            f"| {item.contestant} | {item.batch} | {item.length} | {item.tokens_per_second:.0f} "
            f"| {item.tokens_per_second / baseline.tokens_per_second:.2f} | {item.forwards} "
            f"| {1000 * item.seconds_per_forward:.2f} {_shares(item) if has_shares else ''}"
            f"| {1000 * item.weight_read_seconds:.2f} | {item.peak_mib:.0f} "
            f"| {'yes' if item.tokens_hash == baseline.tokens_hash else 'no'} |"
        )
    return "\n".join(lines)


def _shares(item: Measurement) -> str:
    """Format the two shares as cells."""
    outside = "" if item.outside_model is None else f"{item.outside_model:.0%}"
    share = "" if item.matmul_share is None else f"{item.matmul_share:.2f}"
    return f"| {outside} | {share} "
