"""Trains a tiny model on some number of CPU processes and saves weights and figures: run by test_distributed.py.

Argument: a JSON list of the arguments of :func:`main`, for each run an object.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import ReduceLROnPlateau

from dmaxlit import DMaxModule
from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.noise import MaskedNoise, MMDNoise, MultiBlockNoise, NoiseStrategy, OnPolicyNoise, TSDNoise
from tests.conftest import TINY, make_denoiser


def sgd(params):
    return torch.optim.SGD([p for _, p in params], lr=0.5)


def plateau(optimizer):
    return ReduceLROnPlateau(optimizer, monitor="train/loss", factor=0.3, patience=0)


class SeveralNoise(NoiseStrategy):
    """The views of several strategies, one after the other."""

    def __init__(self, *strategies):
        super().__init__()
        self.strategies = strategies
        self.feature_layer = 1

    def views(self, clean, generator):
        for strategy in self.strategies:
            yield from strategy.views(clean, generator)


NOISE = {
    "on_policy": lambda: OnPolicyNoise(level=(0.2, 0.9), stratified=True),
    "several": lambda: SeveralNoise(
        MultiBlockNoise(base="on_policy"), MMDNoise(groups=2, samples=2), TSDNoise(threshold=0.3, steps=4)
    ),
    "spans": lambda: MaskedNoise(span_length=4),  # with an auxiliary model
}


class Figures(L.Callback):
    """Keeps the figures of every step, and the learning rate."""

    def __init__(self):
        self.steps = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 0:  # within the first step
            return
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.steps[trainer.global_step] = {**figures, "lr": trainer.optimizers[0].param_groups[0]["lr"]}


def main(devices, batch_size, output, accumulate=1, recompute=False, noise="on_policy", max_tokens=None):
    ragged: dict[str, Any] = {}
    if max_tokens is not None:  # with rows of several lengths, in a file of this process
        corpus = f"{output}.{os.environ.get('LOCAL_RANK', 0)}.jsonl"
        rows = [{"prompt": "1 ?", "response": " ".join(["so"] * (1 + (7 * n) % 29))} for n in range(26)]
        Path(corpus).write_text("".join(json.dumps(row) + "\n" for row in rows))
        ragged = {"corpus": corpus, "max_tokens": max_tokens}
    torch.set_num_threads(1)
    denoiser = make_denoiser(block_length=8, sharpen=3.0, recompute=recompute)
    auxiliary = AuxiliarySettings(config=TINY) if noise == "spans" else None
    torch.manual_seed(0)  # of the auxiliary model's weights
    module = DMaxModule(denoiser, NOISE[noise](), optimizer=sgd, lr_scheduler=plateau, auxiliary=auxiliary)
    # 26 rows: the last global batch is short.
    data = SelfDistilledDataModule(
        task="chain",
        task_options={"operations": 3},
        num_train=26,
        num_val=0,
        batch_size=batch_size,
        seed=1,
        **ragged,
    )
    figures = Figures()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=6,
        gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate,
        callbacks=[figures],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=data)
    ranks = [(figures.steps, torch.initial_seed())]
    if devices > 1:
        ranks = [None] * devices
        torch.distributed.all_gather_object(ranks, (figures.steps, torch.initial_seed()))
    if trainer.is_global_zero:
        steps, seeds = zip(*ranks, strict=True)
        weights = {n: p.detach() for n, p in module.named_parameters()}
        torch.save({"weights": weights, "figures": steps, "seeds": seeds}, output)


if __name__ == "__main__":
    for run in json.loads(sys.argv[1]):  # one after the other, in the same processes
        main(**run)
