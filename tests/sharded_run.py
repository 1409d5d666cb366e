"""Trains a tiny model by FSDP2 on CPU processes, or on one without it: run by test_sharding.py.

Argument: a JSON list of runs, each an object with ``devices``, ``batch_size``, ``folder`` and, where they matter,
``resume``, ``defer``, ``steps``, ``checkpointing``, ``clip`` and ``decode``.
"""

import json
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from dmaxlit import DMaxModule
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.sharding import full_state_dict
from dmaxlit.callbacks import ComparisonReport, SPDValidation
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.noise import OnPolicyNoise
from dmaxlit.training import chunked_logits
from dmaxlit.training.fsdp import FSDP2Strategy


def adamw(params):
    return torch.optim.AdamW([p for _, p in params], lr=0.01)


class LargestShare(L.Callback):
    """The largest number of elements a rank holds of the parameters, when training starts."""

    def on_train_start(self, trainer, pl_module):
        self.elements = sum(p.to_local().numel() for p in pl_module.parameters() if hasattr(p, "to_local"))


def main(devices, batch_size, folder, model, resume=None, defer=False, steps=4, checkpointing=False, **more):
    torch.set_num_threads(1)
    if devices > 1:  # logits in chunks, as with a large vocabulary
        chunked_logits._MAX_LOGITS["cpu"], chunked_logits._FEWEST = 1000, 8
    denoiser = Denoiser(pretrained=model, defer=defer, gradient_checkpointing=checkpointing)
    module = DMaxModule(denoiser, OnPolicyNoise(level=(0.2, 0.9)), optimizer=adamw, seed=1)
    # 26 rows: the last global batch of an epoch is short.
    data = SelfDistilledDataModule(
        task="chain", task_options={"operations": 3}, num_train=26, num_val=5, num_test=5, batch_size=batch_size, seed=1
    )
    share = LargestShare()
    callbacks = [ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=2), share]
    if more.get("decode"):
        callbacks += [SPDValidation(curve=[0.5], curve_examples=5), ComparisonReport(str(Path(folder) / "report"))]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=FSDP2Strategy() if devices > 1 else "auto",
        max_steps=steps,
        gradient_clip_val=more.get("clip"),
        limit_val_batches=1.0 if more.get("decode") else 0,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    weights = full_state_dict(module.backbone) if devices > 1 else module.backbone.model.state_dict()
    if trainer.is_global_zero:
        torch.save({name: weight.clone() for name, weight in weights.items()}, Path(folder) / "weights.pt")
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        report = {"logged": logged, "share": getattr(share, "elements", None)}
        (Path(folder) / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    for run in json.loads(sys.argv[1]):  # one after the other, in the same processes
        main(**run)
