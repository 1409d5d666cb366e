"""Asking SLURM to start the job of this process again."""

import os
import subprocess

from dmaxlit.errors import UserError, reason_of


def requeue() -> None:
    """Put the job back into the queue. SLURM ends it, and starts the same script again when there is room.

    Raises:
        UserError: If SLURM refuses, for instance because the job was submitted with ``--no-requeue``.
    """
    job = os.environ["SLURM_JOB_ID"]
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "").strip() or reason_of(error)
        raise UserError(
            f"SLURM: cannot requeue job {job} ({reason}); nothing is lost, and the same command goes on"
        ) from error
