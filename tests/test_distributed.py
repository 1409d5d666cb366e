import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def run(tmp_path, devices, batch_size, accumulate=1, recompute=0, noise="on_policy"):
    output = tmp_path / f"{devices}-{batch_size}-{accumulate}.pt"
    numbers = map(str, (devices, batch_size, accumulate, recompute))
    command = [sys.executable, "-m", "tests.distributed_run", *numbers, noise, str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("MASTER_PORT", None)  # of a trainer that ran in this process, which may still listen
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(output, weights_only=True)


def assert_same_run(one, two):
    for name in one["weights"]:
        torch.testing.assert_close(one["weights"][name], two["weights"][name], atol=5e-6, rtol=1e-4)
    (expected,) = one["figures"]
    first, second = two["figures"]
    assert first == second  # so schedules that follow a figure do the same on all ranks
    assert sorted(first) == sorted(expected) == [1, 2, 3, 4, 5, 6]
    for step, figures in expected.items():
        assert {"train/loss", "train/loss_predicted", "train/corrected_predicted", "lr"} <= set(figures)
        assert first[step] == pytest.approx(figures, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_two_processes_equal_one_on_the_same_global_batch(tmp_path):
    assert_same_run(run(tmp_path, 1, 8), run(tmp_path, 2, 4))


@pytest.mark.slow
def test_two_accumulating_processes_that_compute_layers_again_equal_one(tmp_path):
    # Windows of two micro-batches end with the epoch, so both see the same rows an update.
    assert_same_run(run(tmp_path, 1, 8, 2), run(tmp_path, 2, 2, 4, recompute=1))


@pytest.mark.slow
def test_two_processes_equal_one_with_groups_samples_and_soft_targets(tmp_path):
    one, two = (run(tmp_path, devices, 8 // devices, noise="several") for devices in (1, 2))
    assert_same_run(one, two)
    logged = {"train/mmd_reward", "train/mmd_kernel", "train/trajectory_forwards", "train/loss_earlier"}
    assert logged <= set(one["figures"][0][1])
