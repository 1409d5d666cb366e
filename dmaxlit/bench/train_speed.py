"""Cost of a training step, relative to the published procedure in the same run: same model, data and updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dmaxlit.backbone.activation_checkpointing import enable_activation_checkpointing
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.bench.published import published_update
from dmaxlit.bench.random_model import random_denoiser
from dmaxlit.bench.speed import SpeedBench
from dmaxlit.errors import UserError
from dmaxlit.module import DMaxModule
from dmaxlit.noise import OnPolicyNoise
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role

__all__ = ["TrainSpeedBench"]

_CONTESTANTS = ("published", "ours", "ours, checkpointed")
_FLEX = "ours, FlexAttention"


@dataclass(frozen=True)
class TrainingCost:
    """One contestant at one vocabulary and length.

    Args:
        contestant: ``published``, ``ours``, ``ours, checkpointed``, ``ours, compiled``, ``ours, FlexAttention`` or
            ``ours, FlexAttention, compiled``.
        vocab_size: Size of the vocabulary.
        length: Tokens of a sequence.
        tokens_per_second: Tokens of the data, prompts included, over the time of whole updates.
        peak_mib: Peak memory beyond model, gradients and optimiser, in MiB: of the process on a CPU, of torch on a GPU.
        matmul_share: Operations per second of an update's matrix products, as a share of those of one large product.
        loss: Loss per response token of the first update.
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
    """Time a training step against the procedure of DMax's published code: same model, data, updates and gradients.

    The published procedure rolls out for every micro-batch, trains on the doubled sequence with all logits, and takes
    masked and predicted copies in separate passes. Both take argmax rollouts. Weights and tokens are random, and a
    quarter of each sequence is prompt. Ours is timed with gradient checkpointing as well. Each measurement runs in a
    new process, after one update as a warm-up.

    Args:
        output: Folder for results.json and table.md.
        vocab_sizes: Vocabularies.
        lengths: Tokens of a sequence, in whole blocks; each is measured with each vocabulary.
        hidden_size: Width of the model, a multiple of head_dim.
        head_dim: Width of an attention head; FlexAttention and GPUs prefer 64 or 128.
        layers: Number of layers.
        batch_size: Sequences of a micro-batch.
        block_length: Tokens per block.
        updates: Updates that are timed.
        dtype: float32, or bfloat16 for autocast over float32 weights.
        device: cpu, cuda, ...
        compile: Time our step with compiled forwards as well.
        flex: Time our step with FlexAttention as well, which needs a GPU.
    """

    output: Path = Path("runs/train_speed")
    vocab_sizes: Sequence[int] = (1000, 32000, 150000)
    lengths: Sequence[int] = (512,)
    hidden_size: int = 256
    head_dim: int = 32
    layers: int = 4
    batch_size: int = 2
    block_length: int = 32
    updates: int = 3
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    compile: bool = False
    flex: bool = False

    def __post_init__(self) -> None:
        """Check the settings before anything is timed."""
        self.output = Path(self.output)
        self.check("hidden_size", "layers", "batch_size", "block_length", "updates")
        if not self.vocab_sizes or min(self.vocab_sizes) < 8:
            raise UserError(f"vocab_sizes: expected numbers of at least 8, got {list(self.vocab_sizes)}")
        if self.flex and torch.device(self.device).type == "cpu":
            raise UserError(f"flex: expected a GPU as device, got {self.device!r}")
        if not self.lengths or any(length < 1 or length % self.block_length for length in self.lengths):
            raise UserError(
                f"lengths: expected multiples of block_length {self.block_length}, got {list(self.lengths)}"
            )

    def jobs(self) -> list[tuple[Any, ...]]:
        """Return contestant, vocabulary and length of each measurement."""
        names = [*_CONTESTANTS, *[_FLEX] * self.flex]
        if self.compile:
            names += [f"{name}, compiled" for name in names if name in ("ours", _FLEX)]
        return [(name, vocab, length) for vocab in self.vocab_sizes for length in self.lengths for name in names]

    def table(self, measurements: Sequence[TrainingCost]) -> str:
        """Format the measurements, with ratios to the published procedure."""
        return format_table(measurements)

    def measure(self, contestant: str, vocab_size: int, length: int) -> TrainingCost:
        """Time one contestant in this process."""
        denoiser = random_denoiser(
            vocab_size,
            self.hidden_size,
            self.layers,
            self.block_length,
            2 * length,
            tied=True,
            head_dim=self.head_dim,
            attention="flex_attention" if _FLEX in contestant else "sdpa",
            device=self.device,
        )
        clean = self._batch(denoiser, length)
        update = self._update(contestant, denoiser, clean)
        optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4)
        for parameter in denoiser.parameters():  # gradients and optimiser state exist from the start
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()

        def step() -> float:
            optimizer.zero_grad(set_to_none=False)
            # As Lightning does it, each forward casts the weights anew.
            device, half = torch.device(self.device).type, self.dtype == "bfloat16"
            with torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=False):
                loss = update()
            optimizer.step()
            return loss

        memory_before = self.memory(reset=True)
        loss = step()
        begin = self.now()
        for _ in range(self.updates):
            step()
        seconds = (self.now() - begin) / self.updates
        peak = self.memory() - memory_before
        denoiser.model.set_attn_implementation("sdpa")  # the same products, in operations that can be counted
        denoiser.compiles_training = False
        with _MatrixWork() as work:  # type: ignore[no-untyped-call]
            step()
        return TrainingCost(
            contestant=contestant,
            vocab_size=vocab_size,
            length=length,
            tokens_per_second=clean.ids.numel() / seconds,
            peak_mib=peak,
            matmul_share=work.operations / seconds / self.matmul_speed(self.dtype),
            loss=loss / int(clean.in_loss.sum()),
        )

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
        module = DMaxModule(denoiser, noise, compile=contestant.endswith("compiled"))

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


class _MatrixWork(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of matrix products, also where a forward computes gradients, unlike torch's own counter."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out


def format_table(costs: Sequence[TrainingCost]) -> str:
    """Format costs as a Markdown table, with ratios to the published procedure."""
    baselines = {(cost.vocab_size, cost.length): cost for cost in costs if cost.contestant == "published"}
    lines = [
        "| vocabulary | length | step | tokens/s | ratio | memory MiB | ratio | share of matmul speed | loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        baseline = baselines[cost.vocab_size, cost.length]
        lines.append(
            f"| {cost.vocab_size} | {cost.length} | {cost.contestant} | {cost.tokens_per_second:.0f} "
            f"| {cost.tokens_per_second / baseline.tokens_per_second:.2f} | {cost.peak_mib:.0f} "
            f"| {cost.peak_mib / max(baseline.peak_mib, 1e-9):.2f} | {cost.matmul_share:.2f} | {cost.loss:.4f} |"
        )
    return "\n".join(lines)
