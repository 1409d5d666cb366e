"""Training with ``configs/fsdp.yaml`` from the command line: stopped, killed while it writes, and gone on with."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from dmaxlit.sharded_checkpoint import is_sharded_checkpoint, weights_of_shards
from tests.cli.conftest import QUIET, TASK

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
STEPS = 6

SLOW_NOISE = """
import time
from dmaxlit.noise import OnPolicyNoise

class SlowNoise(OnPolicyNoise):
    '''OPUT that leaves time to be stopped.'''

    def views(self, clean, generator):
        time.sleep(0.1)
        return (yield from super().views(clean, generator))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny, corpus):
    """Where to train: the shipped recipe, with what two CPU processes need put over it."""
    folder = tmp_path_factory.mktemp("sharded")
    settings = {
        "model": {
            "backbone": {"pretrained": str(tiny)},
            "noise": {"class_path": "slow_noise.SlowNoise", "init_args": {"level": [0.2, 0.9]}},
        },
        "data": {
            "task": "chain",
            "task_options": TASK,
            "corpus": str(corpus),
            "batch_size": 2,
            "num_val": 2,
            "num_test": 2,
        },
        "checkpoint": {"every_n_steps": 1},
        "trainer": {**QUIET, "max_steps": STEPS, "gradient_clip_val": 1.0},
    }
    small = {"trainer": {"accelerator": "cpu", "devices": 2, "precision": "32-true"}}
    (folder / "base.yaml").write_text(yaml.safe_dump(settings))
    (folder / "small.yaml").write_text(yaml.safe_dump(small))
    (folder / "slow_noise.py").write_text(SLOW_NOISE)
    return folder


def start(folder, root):
    command = [sys.executable, "-m", "dmaxlit", "fit", "--config", "base.yaml"]
    command += ["--config", str(ROOT / "configs" / "fsdp.yaml"), "--config", "small.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    log = (folder / f"{root}.log").open("a")
    return subprocess.Popen(
        [*command, "--trainer.default_root_dir", root], cwd=folder, env=environment, stdout=log, stderr=log
    )


def fit(folder, root):
    assert start(folder, root).wait(200) == 0, (folder / f"{root}.log").read_text()[-3000:]


def last(folder, root):
    path = folder / root / "checkpoints" / "last.ckpt"
    assert is_sharded_checkpoint(path)
    rest = torch.load(path / "meta.pt", weights_only=True)
    return rest["global_step"], weights_of_shards(path)


@pytest.fixture(scope="module")
def straight(folder):
    fit(folder, "straight")
    return last(folder, "straight")


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert set(found[1]) == set(expected[1])
    for name, value in expected[1].items():
        assert torch.equal(found[1][name], value), name


def test_asked_to_stop_all_ranks_save_together_and_the_same_command_goes_on(folder, straight):
    process = start(folder, "stopped")
    limit = time.monotonic() + 120
    while not (folder / "stopped" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    log = folder / "stopped.log"
    assert process.wait(100) == 143, log.read_text()[-3000:]
    step, _ = last(folder, "stopped")
    assert 0 < step < STEPS
    assert f"after step {step}; the same command goes on from stopped/checkpoints/last.ckpt" in log.read_text()
    assert "Traceback" not in log.read_text()
    fit(folder, "stopped")
    assert_same(last(folder, "stopped"), straight)


def test_a_damaged_checkpoint_of_parts_is_left_for_the_one_before(folder, straight):
    shutil.copytree(folder / "straight", folder / "damaged")
    checkpoints = folder / "damaged" / "checkpoints"
    (checkpoints / "finished.json").unlink()
    part = checkpoints / "last.ckpt" / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:100])
    fit(folder, "damaged")
    told = (folder / "damaged.log").read_text()
    assert "damaged/checkpoints/previous.ckpt" in told
    assert_same(last(folder, "damaged"), straight)
