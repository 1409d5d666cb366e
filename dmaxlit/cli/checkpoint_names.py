"""What ``--ckpt_path`` may name: a checkpoint of ours by its path, or the run's own as ``last``, ``best``, ``hpc``."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from dmaxlit.backbone.formats.metadata import METADATA_FILE
from dmaxlit.checkpoints.atomic_io import refuse_damaged
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.checkpoints.plain_data import require_local
from dmaxlit.checkpoints.resumable import check_step
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.checkpoints.sharded import check_shards, is_sharded_checkpoint
from dmaxlit.errors import UserError


def resolve_checkpoint(name: str, command: str, settings: Any) -> str | None:
    """Return the path that ``--ckpt_path`` stands for; None where ``fit`` is to resume as it does without one.

    Lightning would look for ``last`` and ``best`` among what this process has written, which is nothing yet, and go on
    with an untrained model.

    Args:
        name: The value of ``--ckpt_path``.
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        settings: The command's settings.

    Raises:
        UserError: If it is no checkpoint on this machine, or names one that does not exist.
    """
    require_local(name)
    if name == "best":
        return _best_checkpoint(settings)
    if name == "hpc":
        return _hpc_checkpoint(settings)
    if name != "last":
        _refuse_plain_folder(Path(name))
        return name
    folder = _folder(settings)
    if folder is None:
        raise UserError("ckpt_path: 'last' is looked for in --trainer.default_root_dir, which is not set; give a path")
    found = [*RunFolder(folder).candidates(), *hpc_checkpoints(settings.trainer.default_root_dir)]
    if not found:
        raise UserError(f"ckpt_path: expected a checkpoint in {str(folder)!r}, the run's folder of them, found none")
    if command == "fit":
        _refuse_not_resuming(settings)
        return None
    return str(newest_readable(found)[0])


def newest_readable(
    candidates: Iterable[Path], check: Callable[[Path, dict[str, Any]], None] = check_step, advice: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint with the most steps of those that are not damaged, and its content; report damaged ones.

    Steps are compared before any tensor is read. Then the newest is verified, and one before it only if it is damaged.

    Args:
        candidates: Paths of checkpoints, at least one; of two with equal steps the first is taken.
        check: Raises a :class:`UserError` for the path and content of one that is damaged in another way.
        advice: End of the message where all are damaged.

    Raises:
        UserError: If all are damaged.
    """
    checkpoints: dict[Path, dict[str, Any]] = {}
    errors: list[str] = []
    for path in candidates:
        try:
            content = read_checkpoint(path, verify=False)
            check(path, content)
            checkpoints[path] = content
        except UserError as error:
            errors.append(str(error))
    newest: Path | None = None
    for path in sorted(checkpoints, key=lambda path: int(checkpoints[path]["global_step"]), reverse=True):
        try:
            if path.is_file():
                refuse_damaged(path)
            else:
                check_shards(path, contents=True)
            newest = path
            break  # the tensors of those before it are not needed, and not read
        except UserError as error:
            errors.append(str(error))
    if newest is None:
        raise UserError(f"{errors[0]}, and there is none before it{advice}")
    for error_line in errors:
        rank_zero_info(error_line)
    return newest, checkpoints[newest]


def hpc_checkpoints(root: str | Path | None) -> list[Path]:
    """Return the checkpoints that Lightning wrote before SLURM requeued the run, newest first."""
    numbers = {path: re.fullmatch(r"hpc_ckpt_(\d+)", path.stem) for path in Path(root or ".").glob("hpc_ckpt_*.ckpt")}
    numbered = {path: int(match[1]) for path, match in numbers.items() if match is not None}
    return sorted(numbered, key=lambda path: numbered[path], reverse=True)


def _best_checkpoint(settings: Any) -> str:
    folder = _folder(settings)
    best = None if folder is None else RunFolder(folder).best
    if best is None or not best.exists():
        where = folder or "the run's folder of checkpoints"
        raise UserError(
            f"ckpt_path: 'best' is the best.ckpt that --checkpoint.monitor keeps, found none; give the file of your "
            f"choice in {where}"
        )
    return str(best)


def _hpc_checkpoint(settings: Any) -> str:
    root = settings.trainer.default_root_dir
    found = hpc_checkpoints(root)
    if not found:
        raise UserError(f"ckpt_path: expected a file hpc_ckpt_*.ckpt in {str(root or '.')!r} for 'hpc', found none")
    return str(found[0])


def _folder(settings: Any) -> Path | None:
    """Return the run's folder of checkpoints; None where it is chosen when the run starts."""
    if settings.checkpoint.folder is not None:
        return Path(settings.checkpoint.folder)
    root = settings.trainer.default_root_dir
    return None if root is None else Path(root) / "checkpoints"


def _refuse_not_resuming(settings: Any) -> None:
    for option, value, expected in (
        ("checkpoint.resume", settings.checkpoint.resume, True),
        ("trainer.enable_checkpointing", settings.trainer.enable_checkpointing is not False, True),
        ("trainer.fast_dev_run", settings.trainer.fast_dev_run or False, False),
    ):
        if value != expected:
            raise UserError(
                f"ckpt_path: 'last' resumes the run, expected --{option} {str(expected).lower()}, got "
                f"{str(value).lower()}; give the path of a checkpoint"
            )


def _refuse_plain_folder(path: Path) -> None:
    """Refuse a folder that is not a sharded checkpoint, and say what was probably meant."""
    if not path.is_dir() or is_sharded_checkpoint(path):
        return
    advice = ""
    for folder in (path, path / "checkpoints"):
        if found := RunFolder(folder).candidates():
            advice = f"; give {str(found[0])!r}"
    if (path / METADATA_FILE).is_file():
        advice = f"; an exported model is given as --model.backbone.pretrained {path}"
    raise UserError(f"ckpt_path: expected a checkpoint, got the folder {str(path)!r}{advice}")
