"""``fit`` goes on where the same run was interrupted, and refuses to continue another one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info

from dmaxlit.callbacks.run_checkpoint import RunCheckpoint
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.checkpoints.run_state import resume_logs
from dmaxlit.checkpoints.sharded import is_sharded_checkpoint
from dmaxlit.errors import UserError

__all__ = ["find_checkpoint", "refuse_parts", "run_settings"]

# What a run may be gone on with changed: what it costs or shows, not what it learns.
_FREE_DATA = ("batch_size", "num_workers", "eval_batch_size", "num_val", "num_test")
_TRAINER = (
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
    "limit_train_batches",
    "overfit_batches",
)


def run_settings(parser: ArgumentParser, config: Namespace, trainer: Trainer) -> dict[str, Any]:
    """The settings that decide what a run learns, as plain values under dotted names.

    Not among them: how long it trains, what it validates, shows and saves. Batches count by their size over all ranks,
    so a run may go on with another number of processes.
    """
    told = yaml.safe_load(parser.dump(config, skip_none=False))["fit"]
    data = told.get("data") or {}
    own = data.get("init_args", data)
    kept: dict[str, Any] = {
        "seed_everything": told.get("seed_everything"),
        "model": told.get("model"),
        "data": {**data, "init_args": {name: value for name, value in own.items() if name not in _FREE_DATA}},
        "trainer": {name: told["trainer"].get(name) for name in _TRAINER},
    }
    if own.get("batch_size") is not None:
        kept["batch_size over all ranks"] = own["batch_size"] * trainer.world_size
    return _flat(kept)


def find_checkpoint(trainer: Trainer, callback: RunCheckpoint) -> Path | None:
    """The checkpoint to go on from, having said so; None for a new run.

    A damaged one is reported, and the one before it taken. ``callback.finished`` says whether the run is over already.

    Raises:
        UserError: If there are only damaged ones, or they are of a run with other settings.
    """
    files = callback.files(trainer)
    candidates = files.candidates()
    candidates += sorted(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"))  # of Lightning, before SLURM's requeue
    if not candidates:
        return None
    if not callback.resume:
        rank_zero_info(f"starting over: the checkpoints in {files.path} are replaced")
        return None
    found: dict[Path, dict[str, Any]] = {}
    refused: list[str] = []
    for path in candidates:
        try:
            found[path] = read_checkpoint(path)
        except UserError as error:
            refused.append(str(error))
    if not found:
        raise UserError(f"{refused[0]}, and there is none before it; --checkpoint.resume false starts over")
    for line in refused:
        rank_zero_info(line)
    path = max(found, key=lambda path: int(found[path]["global_step"]))
    refuse_parts(path, trainer)
    told = found[path].get("dmaxlit_run", {})
    _refuse_other(path, json.loads(told.get("settings", "{}")), callback.settings)
    step = found[path]["global_step"]
    resume_logs(trainer, told)
    callback.automatic = True
    if files.finished() == {"step": step, **callback.limits(trainer)}:
        rank_zero_info(f"{path}: the run is finished, at step {step}; --checkpoint.resume false starts over")
        callback.finished = True
        return path
    rank_zero_info(f"going on from {path}, after step {step}")
    return path


def refuse_parts(path: Path | str, trainer: Trainer) -> None:
    """Refuse a checkpoint of parts where the trainer's strategy cannot read one.

    Raises:
        UserError: If so.
    """
    if is_sharded_checkpoint(path) and not isinstance(trainer.strategy, ModelParallelStrategy):
        raise UserError(
            f"{path}: was written by processes that share the model, and is gone on from by such alone (--config "
            "configs/fsdp.yaml); `dmaxlit export` makes a model of it, to start from"
        )


def _refuse_other(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for name in (*here, *there):
        if there.get(name) != here.get(name):
            raise UserError(
                f"{path}: belongs to another run: {name} is {there.get(name)!r} there, {here.get(name)!r} here; give "
                "another --trainer.default_root_dir, or --checkpoint.resume false to start over"
            )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {
        inner: leaf
        for key, child in value.items()
        for inner, leaf in _flat(child, f"{name}.{key}".replace(".init_args", "").lstrip(".")).items()
    }
