"""Resuming ``fit`` where the same run was interrupted, and refusing to continue another run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from dmaxlit.callbacks.run_checkpoint import RunCheckpoint
from dmaxlit.checkpoints.resumable import check_resumable
from dmaxlit.checkpoints.run_limits import refuse_shorter
from dmaxlit.checkpoints.run_state import resume_logs
from dmaxlit.checkpoints.sharded import is_sharded_checkpoint
from dmaxlit.cli.checkpoint_names import hpc_checkpoints, newest_readable
from dmaxlit.cli.renames import current_settings
from dmaxlit.cli.run_callbacks import run_checkpoints_of
from dmaxlit.cli.step_rows import current_step_rows, step_batches, step_rows, with_as_many_rows
from dmaxlit.data.corpora import DEFAULT_NUM_TRAIN
from dmaxlit.data.distill_settings import DEFAULT_NUM_PROMPTS
from dmaxlit.errors import UserError
from dmaxlit.module import DMaxModule
from dmaxlit.training.callback_settings import training_settings
from dmaxlit.training.fsdp import FSDP2Strategy
from dmaxlit.training.lr_schedules import LENGTH_OPTIONS
from dmaxlit.training.objective import objective_of

# A resumed run may change what affects its cost or its output, but not what affects the weights.
_FREE_SETTINGS = frozenset(
    {
        *(f"data.{name}" for name in ("batch_size", "num_workers", "eval_batch_size", "num_val", "num_test")),
        *("data.cache_dir", "data.num_proc"),
        "data.tool_turns",  # where it matters, the rows are others, which is noticed by their fingerprint
        *("data.distill.batch_size", "data.distill.check_decoder", "model.check_noise", "model.backbone.probe"),
    }
)
_FIXED_TRAINER_OPTIONS = (
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
    "limit_train_batches",
    "overfit_batches",
)
# What is taken where they are null; the data's were the defaults of earlier versions.
_DEFAULTS = {
    "data.num_train": DEFAULT_NUM_TRAIN,
    "data.distill.num_prompts": DEFAULT_NUM_PROMPTS,
    "trainer.gradient_clip_algorithm": "norm",
    "trainer.limit_train_batches": 1.0,
    "trainer.precision": "32-true",
}
_CALLBACKS = "callbacks that change training"
_START_OVER = "; --checkpoint.resume false starts over"
_STOP_OPTIONS = ("max_time", "min_steps", "min_epochs", "callbacks")


def run_settings(
    settings: Mapping[str, Any], trainer: Trainer, module: type[DMaxModule] = DMaxModule
) -> dict[str, Any]:
    """Return those of the settings of ``fit`` that decide what a run learns, under dotted names.

    They do not include how long it trains, or what it validates, logs and saves, and so of its callbacks only those
    that change what is learned: the objective that one of them may set, and the settings of the others. Instead of the
    batch size they have the rows or micro-batches of an optimiser step, so that a run may be resumed with another
    number of processes.
    """
    data = settings.get("data") or {}
    options = data.get("init_args", data)
    batch_size = options.get("batch_size")
    callbacks = settings["trainer"].get("callbacks") or []
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    of_callbacks = training_settings(cast(Any, trainer).callbacks, given)
    fixed: dict[str, Any] = {
        "seed_everything": settings.get("seed_everything"),
        "objective": objective_of(cast(Any, trainer).callbacks).name,
        "model": settings["model"],
        "data": data,
        "trainer": {name: settings["trainer"].get(name) for name in _FIXED_TRAINER_OPTIONS},
    }
    fixed |= {_CALLBACKS: sorted(of_callbacks), "callback": of_callbacks}
    if module is not DMaxModule:
        fixed["model class"] = f"{module.__module__}.{module.__qualname__}"
    if batch_size is None:
        fixed["trainer"]["accumulate_grad_batches"] = trainer.accumulate_grad_batches
    elif options.get("max_tokens") is not None:
        fixed |= step_batches(batch_size, trainer.world_size, trainer.accumulate_grad_batches, fixed["trainer"])
    else:
        grouped = bool(options.get("group_by_length"))
        rows = batch_size * trainer.world_size
        fixed |= step_rows(rows, trainer.accumulate_grad_batches, fixed["trainer"], grouped)
    return {name: value for name, value in _flat(fixed).items() if name not in _FREE_SETTINGS}


def hyperparameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of ``fit`` under dotted names, but for its folders, callbacks and loggers."""
    kept = {
        name: value
        for name, value in settings.items()
        if name not in ("config", "ckpt_path", "checkpoint", "finite_guard")
    }
    unnamed = ("default_root_dir", "callbacks", "logger")
    kept["trainer"] = {name: value for name, value in settings["trainer"].items() if name not in unnamed}
    return _flat(kept)


def stop_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings of ``fit`` that may stop a run before its last step: time limit and callbacks."""
    return {name: settings["trainer"].get(name) for name in _STOP_OPTIONS}


def find_checkpoint(trainer: Trainer, callback: RunCheckpoint, module: LightningModule) -> Path | None:
    """Return the checkpoint to resume from, after reporting it; None for a new run.

    A damaged checkpoint is reported, and the one before it is used. Sets ``callback.finished`` if the run has already
    reached its end.

    Raises:
        UserError: If all checkpoints are damaged, belong to a run with other settings, or are of a step beyond the
            run's last.
    """
    files = callback.files(trainer)
    candidates = files.candidates()
    candidates += hpc_checkpoints(trainer.default_root_dir)
    if not candidates or not callback.resume:
        # Of a run that was killed before its first checkpoint only the log is left; this one writes it anew.
        resume_logs(trainer, {"log_versions": files.begun_logs(callback.settings), "void_from_step": 0})
    if not candidates:
        return None
    if not callback.resume:
        rank_zero_info(f"starting over: the checkpoints in {files.path} are replaced")
        return None
    path, checkpoint = newest_readable(candidates, check_resumable, _START_OVER)
    refuse_sharded(path, trainer)
    state = checkpoint.get("dmaxlit_run", {})
    stored = current_step_rows(current_settings(json.loads(state.get("settings", "{}"))))
    # The present ones too: a data module of one's own lacks options that are added to what an old run stored.
    _refuse_other_run(path, stored, current_settings(callback.settings), trainer)
    refuse_other_weights(str(path), checkpoint["state_dict"], module, _START_OVER)
    refuse_shorter(trainer, path, checkpoint, _START_OVER)
    step = checkpoint["global_step"]
    resume_logs(trainer, state)
    for own in run_checkpoints_of(trainer):
        own.automatic = True
    record = files.finished()
    ended_by = callback.ended_by(trainer, stopped=record is not None and "stopped" in record)
    if path == files.last and record == {"step": step, **ended_by}:  # else it was killed before it was finished
        rank_zero_info(f"{path}: the run is finished, at step {step}; --checkpoint.resume false starts over")
        callback.finished = True
        return path
    rank_zero_info(f"resuming from {path}, after step {step}")
    return path


def refuse_sharded(path: Path | str, trainer: Trainer) -> None:
    """Refuse a sharded checkpoint if the trainer's strategy cannot read one.

    Raises:
        UserError: If so.
    """
    if is_sharded_checkpoint(path) and not isinstance(trainer.strategy, FSDP2Strategy):
        raise UserError(
            f"{path}: was written by processes that share the model, and can be resumed only by such (--config "
            "configs/fsdp.yaml); `dmaxlit export` makes a model of it, to start from"
        )


def refuse_other_weights(source: str, weights: dict[str, Any], module: LightningModule, advice: str = "") -> None:
    """Refuse weights that are not the model's, by names and shapes; none pass, as a sharded checkpoint has them apart.

    Args:
        source: What the weights come from, for messages.
        weights: The weights, or anything with their shapes.
        module: The model.
        advice: End of the message.

    Raises:
        UserError: If a weight is missing, is not the model's, or has another shape.
    """
    expected = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    stored = {name: tuple(weight.shape) for name, weight in weights.items()}
    wrong = [name for name in {**expected, **stored} if expected.get(name) != stored.get(name)]
    if stored and wrong:
        raise UserError(
            f"{source}: expected the weights of the configured model, got others, such as {wrong[0]}{advice}"
        )


def _refuse_other_run(path: Path, stored: Mapping[str, Any], current: Mapping[str, Any], trainer: Trainer) -> None:
    stored, current = _with_defaults(stored), _with_defaults(current)
    for name in (*current, *stored):
        if name in _FREE_SETTINGS:  # an earlier version may have stored it
            continue
        if _CALLBACKS not in stored and (name == _CALLBACKS or name.startswith("callback.")):
            continue  # an earlier version stored none
        there, here = stored.get(name), current.get(name)
        is_same = there == here and not _is_one_batch_or_all(name, there, here)
        if not is_same and not _is_longer(name, there, here):
            as_many = with_as_many_rows(name, stored, current, trainer)
            shown = [_shown(settings, name) for settings in (stored, current)]
            raise UserError(
                f"{path}: belongs to another run: {name} is {shown[0]} there, {shown[1]} here; "
                f"give {as_many}another --trainer.default_root_dir, or --checkpoint.resume false to start over"
            )


def _with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: _DEFAULTS.get(name) if value is None else value for name, value in settings.items()}
    return {**_DEFAULTS, **chosen}


def _is_one_batch_or_all(name: str, there: Any, here: Any) -> bool:
    """Return whether of two equal values one is the number of batches, 1, and the other their share, 1.0."""
    options = ("trainer.limit_train_batches", "trainer.overfit_batches")
    return name in options and here == 1 and type(there) is not type(here)


def _shown(settings: Mapping[str, Any], name: str) -> str:
    """Return a value for a message; an option of what is null or of another class has none."""
    return repr(settings[name]) if name in settings else "not set"


def _is_longer(name: str, stored: Any, current: Any) -> bool:
    """Return whether an option is a length of the schedule that has grown, as it must with the run."""
    prefix, _, option = name.rpartition(".")
    if prefix != "model.lr_scheduler" or option not in LENGTH_OPTIONS:
        return False
    if isinstance(stored, list) and isinstance(current, list):
        return len(current) >= len(stored) and all(new >= old for old, new in zip(stored, current, strict=False))
    return all(isinstance(value, (int, float)) for value in (stored, current)) and current > stored


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {
        inner: leaf
        for key, child in value.items()
        for inner, leaf in _flat(child, f"{name}.{key}".replace(".init_args", "").lstrip(".")).items()
    }
