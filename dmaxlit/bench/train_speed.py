"""What a training step costs, against the published procedure in the same run: same model, data and updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dmaxlit.backbone.activation_checkpointing import enable_activation_checkpointing
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.bench.machine import random_denoiser
from dmaxlit.bench.published import published_update
from dmaxlit.bench.speed import SpeedBench
from dmaxlit.errors import UserError
from dmaxlit.module import DMaxModule
from dmaxlit.noise import OnPolicyNoise
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role

__all__ = ["TrainSpeedBench", "TrainingCost", "format_table"]

CONTESTANTS = ("published", "ours", "ours, checkpointed")


@dataclass(frozen=True)
class TrainingCost:
    """One contestant at one vocabulary and length.

    Args:
        contestant: ``published``, ``ours``, ``ours, checkpointed`` or ``ours, compiled``.
        vocab_size: Size of the vocabulary.
        length: Tokens of a sequence.
        tokens_per_second: Tokens of the data, prompts included, over the time of whole updates.
        peak_mib: Memory at the highest beyond what model, gradients and optimiser take, in MiB: the process's on a CPU,
            torch's on a GPU.
        matmul_share: Matrix work of an update over its time, as a share of what one large product reaches.
        loss: Per response token, of the first update.
    """

    contestant: str
    vocab_size: int
    length: int
    tokens_per_second: float
    peak_mib: float
    matmul_share: float
    loss: float


@dataclass
class TrainSpeedBench(SpeedBench):
    """Time our OPUT step and the published procedure: rollout, masked copy and predicted copy of the same sequences.

    Ours once more with gradient checkpointing, where layers are computed again in the backward pass.

    Random weights and tokens; a quarter of each sequence is prompt. Each measurement runs in a process of its own,
    after an update to warm up. Both take argmax rollouts, so that both compute the same gradients.

    Args:
        output: Folder for ``results.json`` and ``table.md``.
        vocab_sizes: Vocabularies.
        lengths: Tokens of a sequence, in whole blocks; each is measured with each vocabulary.
        hidden_size: Width of the model, a multiple of 32.
        layers: Its layers.
        batch_size: Sequences of a micro-batch.
        block_length: Tokens per block.
        updates: Updates that are timed.
        dtype: ``float32``, or ``bfloat16`` for autocast over float32 weights.
        device: ``cpu``, ``cuda``, ...
        compile: Time our step with compiled forwards as well.
    """

    output: Path = Path("runs/train_speed")
    vocab_sizes: Sequence[int] = (1000, 32000, 150000)
    lengths: Sequence[int] = (512,)
    hidden_size: int = 256
    layers: int = 4
    batch_size: int = 2
    block_length: int = 32
    updates: int = 3
    dtype: str = "float32"
    device: str = "cpu"
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the settings before anything is timed."""
        self.output = Path(self.output)
        self.check("hidden_size", "layers", "batch_size", "block_length", "updates")
        if not self.vocab_sizes or min(self.vocab_sizes) < 8:
            raise UserError(f"vocab_sizes: expected numbers of at least 8, got {list(self.vocab_sizes)}")
        if not self.lengths or any(length < 1 or length % self.block_length for length in self.lengths):
            raise UserError(
                f"lengths: expected multiples of block_length {self.block_length}, got {list(self.lengths)}"
            )

    def jobs(self) -> list[tuple[Any, ...]]:
        """Contestant, vocabulary and length."""
        names = [*CONTESTANTS, "ours, compiled"] if self.compile else CONTESTANTS
        return [(name, vocab, length) for vocab in self.vocab_sizes for length in self.lengths for name in names]

    def table(self, measurements: Sequence[TrainingCost]) -> str:
        """Ratios are to the published procedure."""
        return format_table(measurements)

    def measure(self, contestant: str, vocab_size: int, length: int) -> TrainingCost:
        """Time one contestant in this process."""
        denoiser = random_denoiser(
            vocab_size, self.hidden_size, self.layers, self.block_length, 2 * length, tied=True
        ).to(self.device)
        clean = self._batch(denoiser, length)
        update = self._update(contestant, denoiser, clean)
        optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4)
        for parameter in denoiser.parameters():  # gradients and optimiser state are both contestants' alike
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()

        def step() -> float:
            optimizer.zero_grad(set_to_none=False)
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                loss = update()
            optimizer.step()
            return loss

        before = self.memory(reset=True)
        loss = step()
        begin = self.now()
        for _ in range(self.updates):
            step()
        seconds = (self.now() - begin) / self.updates
        peak = self.memory() - before
        with _MatrixWork() as work:  # type: ignore[no-untyped-call]
            step()
        share = work.operations / seconds / self._matmul_speed()
        tokens = clean.ids.numel() / seconds
        return TrainingCost(contestant, vocab_size, length, tokens, peak, share, loss / int(clean.response.sum()))

    def _update(self, contestant: str, denoiser: Denoiser, clean: CleanBatch) -> Callable[[], float]:
        noise = OnPolicyNoise(rollout="argmax")
        keys: list[object] = list(range(len(clean.ids)))

        def generator() -> RowGenerator:
            return RowGenerator(0, keys, device=clean.ids.device)

        if contestant == "published":
            masked = noise.corrupt(clean, generator()).positions
            return lambda: float(published_update(denoiser, clean, masked))
        if contestant == "ours, checkpointed":
            enable_activation_checkpointing(denoiser.model)
        module = DMaxModule(denoiser, noise, compile=contestant == "ours, compiled")

        def ours() -> float:
            total = torch.stack([loss.total for loss in module.view_losses(clean, generator())]).sum()
            total.backward()  # type: ignore[no-untyped-call]
            return float(total.detach())

        return ours

    def _batch(self, denoiser: Denoiser, length: int) -> CleanBatch:
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, length)
        ids = torch.randint(0, denoiser.special.vocab_size - 3, shape, generator=generator)
        roles = torch.full(shape, int(Role.RESPONSE))
        roles[:, : length // 4] = int(Role.PROMPT)
        return CleanBatch(ids.to(self.device), roles.to(self.device), self.block_length, denoiser.special)

    def _matmul_speed(self, size: int = 2048) -> float:
        """Operations a second of one large product, the best of five."""
        one = torch.randn(size, size, device=self.device, dtype=getattr(torch, self.dtype))
        times = []
        for _ in range(5):
            begin = self.now()
            one @ one
            times.append(self.now() - begin)
        return 2 * size**3 / min(times)


class _MatrixWork(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of matrix products; torch's own counter cannot follow a gradient taken in a forward."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out


def format_table(costs: Sequence[TrainingCost]) -> str:
    """A markdown table; ratios are to the published procedure."""
    base = {(one.vocab_size, one.length): one for one in costs if one.contestant == "published"}
    lines = [
        "| vocabulary | length | step | tokens/s | ratio | memory MiB | ratio | share of matmul speed | loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in costs:
        other = base[one.vocab_size, one.length]
        lines.append(
            f"| {one.vocab_size} | {one.length} | {one.contestant} | {one.tokens_per_second:.0f} "
            f"| {one.tokens_per_second / other.tokens_per_second:.2f} | {one.peak_mib:.0f} "
            f"| {one.peak_mib / max(other.peak_mib, 1e-9):.2f} | {one.matmul_share:.2f} | {one.loss:.4f} |"
        )
    return "\n".join(lines)
