"""Fits the fake model on some number of CPU processes and writes the counts of rank zero; run by the tests."""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from dmaxlit.callbacks import ComparisonReport, SPDValidation, TrainingThroughput
from tests.callbacks.fakes import NUM_VAL, FakeModule, make_data, make_trainer

NAMES = ("accuracy", "tpf", "finished", "hit_step_limit")


def run(devices, folder):
    """Fit; return the counts and metrics of rank zero, None on other ranks."""
    validation = SPDValidation(curve=[0.0, 0.5], curve_examples=7)
    report = ComparisonReport(str(folder / "out"), num_examples=9)
    module = FakeModule()
    trainer = make_trainer(
        folder,
        [validation, report, TrainingThroughput()],
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=1,
        logger=TensorBoardLogger(folder, None, ""),
    )
    trainer.fit(module, datamodule=make_data(batch_size=8 // devices))
    if not trainer.is_global_zero:
        return None
    decoded = [len(prompts) for prompts, _, options, *_ in module.calls if options == {"tau_dec": 0.5}]
    batches = -(-NUM_VAL // devices // 4)
    counted = {
        "ranks": trainer.world_size,
        "decoded": sum(decoded[1 : 1 + batches]),  # the first call is the report's
        "metrics": {
            f"{label}/{name}": float(trainer.callback_metrics[f"decode/{label}/{name}"])
            for label in ("spd", "threshold")
            for name in NAMES
        },
        "curve": {
            f"{label} {point.threshold} {key}": getattr(point.result, key)
            for label, line in validation.curves.items()
            for point in line
            for key in ("num_examples", "accuracy", "tpf", "tpf_published", "tpf_ceiling", "blocks_at_step_limit")
        },
    }
    for model in ("base", "trained"):
        counted[model] = {
            f"{title} {key}": getattr(result, key)
            for title, result in getattr(report, model).items()
            for key in ("num_examples", "accuracy", "tpf", "finished", "blocks")
        }
    return counted


if __name__ == "__main__":
    torch.set_num_threads(1)
    counted = run(int(sys.argv[1]), Path(sys.argv[2]))
    if counted is not None:
        Path(sys.argv[3]).write_text(json.dumps(counted))
