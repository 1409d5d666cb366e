import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def weights(tmp_path, devices, batch_size, accumulate=1, recompute=0):
    output = tmp_path / f"{devices}-{batch_size}-{accumulate}.pt"
    numbers = map(str, (devices, batch_size, accumulate, recompute))
    command = [sys.executable, "-m", "tests.distributed_run", *numbers, str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("MASTER_PORT", None)  # of a trainer that ran in this process, which may still listen
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(output, weights_only=True)


@pytest.mark.slow
def test_two_processes_equal_one_on_the_same_global_batch(tmp_path):
    one, two = weights(tmp_path, 1, 8), weights(tmp_path, 2, 4)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=5e-6, rtol=1e-4)


@pytest.mark.slow
def test_two_accumulating_processes_that_compute_layers_again_equal_one(tmp_path):
    # Windows of two micro-batches end with the epoch, so both see the same rows an update.
    one, two = weights(tmp_path, 1, 8, 2), weights(tmp_path, 2, 2, 4, recompute=1)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=5e-6, rtol=1e-4)
