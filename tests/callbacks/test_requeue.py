import os

import pytest

from dmaxlit.callbacks._requeue import requeue
from dmaxlit.errors import UserError


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Replace SLURM's command by one that notes its arguments, and refuses the job 8."""
    script = tmp_path / "scontrol"
    refusal = '[ "$2" != 8 ] || { echo "Job is not requeueable: 8" >&2; exit 1; }'
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{refusal}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    return tmp_path / "calls"


def test_the_job_is_requeued_or_of_an_array_the_task_alone(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    requeue()
    assert scontrol.read_text() == "requeue 7\nrequeue 5_2\n"


def test_a_refusal_of_slurm_is_one_line(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    with pytest.raises(UserError, match=r"^SLURM: cannot requeue job 8 \(Job is not requeueable: 8\); nothing is lost"):
        requeue()


def test_without_slurm_s_command_the_refusal_says_so(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"^SLURM: cannot requeue job 8 \(.*No such file or directory"):
        requeue()
