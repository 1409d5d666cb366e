"""Trains a tiny model on some number of CPU processes and saves its weights: run by test_distributed.py."""

import sys

import lightning as L
import torch

from dmaxlit import DMaxModule
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.noise import OnPolicyNoise
from tests.conftest import make_denoiser


def sgd(params):
    return torch.optim.SGD([p for _, p in params], lr=0.5)


if __name__ == "__main__":
    devices, batch_size, accumulate, recompute = map(int, sys.argv[1:5])
    torch.set_num_threads(1)
    noise = OnPolicyNoise(level=(0.2, 0.9), stratified=accumulate == 1)
    module = DMaxModule(make_denoiser(sharpen=3.0, recompute=bool(recompute)), noise, optimizer=sgd)
    # 26 rows: the last global batch is short.
    data = SelfDistilledDataModule(
        task="chain", task_options={"operations": 3}, num_train=26, num_val=0, batch_size=batch_size, seed=1
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=6,
        gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=data)
    if trainer.is_global_zero:
        torch.save({name: p.detach() for name, p in module.named_parameters()}, sys.argv[5])
