"""Training with ``configs/fsdp.yaml`` from the command line: stopped, killed while it writes, and gone on with."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from dmaxlit.checkpoints.sharded import is_sharded_checkpoint, weights_of_shards
from tests.cli.conftest import QUIET, data_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
STEPS = 6

SPOIL = """
from lightning import Callback

class Spoil(Callback):
    # Rank 1 alone holds a number that is none, in its part of the gradient of the last norm.

    def on_after_backward(self, trainer, module):
        if trainer.global_rank == 1 and trainer.global_step == 1:
            module.backbone.model.model.norm.weight.grad.to_local()[0] = float("inf")
"""

STOP = """
from lightning import Callback

class Stop(Callback):
    # One rank alone asks to stop.

    def __init__(self, hook: str, rank: int):
        self.rank = rank
        setattr(self, hook, self.stop)

    def stop(self, trainer, *args, **kwargs):
        if trainer.global_rank == self.rank and not trainer.sanity_checking:
            trainer.should_stop = True
"""

SLOW_NOISE = """
import time
from dmaxlit.noise import OnPolicyNoise

class SlowNoise(OnPolicyNoise):
    '''OPUT that leaves time to be stopped.'''

    def views(self, clean, generator):
        time.sleep(0.1)
        return (yield from super().views(clean, generator))
"""


class Fits:
    """Command lines of ``fit`` in a folder, run by two ranks."""

    def __init__(self, processes, folder):
        self.processes, self.folder = processes, folder

    def start(self, root, *flags, shared=True, **options):
        """Start ``fit``; return the ids of its processes."""
        args = ["fit", "--config", "base.yaml", "--trainer.default_root_dir", root]
        if shared:
            args += ["--config", str(ROOT / "configs" / "fsdp.yaml"), "--config", "small.yaml"]
        options = {"folder": self.folder, "ranks": 2, **options}
        return self.processes.start([*args, *flags], self.folder / f"{root}.log", **options)

    def fit(self, root, *flags, **options):
        """Run ``fit``; return the exit codes of its processes."""
        self.start(root, *flags, **options)
        return self.processes.wait()

    def log(self, root):
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{root}.log*")))


@pytest.fixture(scope="module")
def fits(processes, tmp_path_factory, tiny, corpus):
    """Runs of ``fit``: the shipped recipe, with what two CPU processes need put over it."""
    folder = tmp_path_factory.mktemp("sharded")
    settings = {
        "model": {
            "backbone": {"pretrained": str(tiny)},
            "noise": {"class_path": "slow_noise.SlowNoise", "init_args": {"level": [0.2, 0.9]}},
        },
        "data": data_of(corpus),
        "checkpoint": {"every_n_steps": 1},
        "trainer": {**QUIET, "max_steps": STEPS, "gradient_clip_val": 1.0},
    }
    small = {"trainer": {"accelerator": "cpu", "devices": 2, "precision": "32-true"}}
    (folder / "base.yaml").write_text(yaml.safe_dump(settings))
    (folder / "small.yaml").write_text(yaml.safe_dump(small))
    (folder / "slow_noise.py").write_text(SLOW_NOISE)
    (folder / "spoil.py").write_text(SPOIL)
    (folder / "stop.py").write_text(STOP)
    return Fits(processes, folder)


def last(fits, root):
    path = fits.folder / root / "checkpoints" / "last.ckpt"
    assert is_sharded_checkpoint(path)
    rest = torch.load(path / "meta.pt", weights_only=True)
    return rest["global_step"], weights_of_shards(path)


@pytest.fixture(scope="module")
def straight(fits):
    assert fits.fit("straight") == [0, 0], fits.log("straight")
    return last(fits, "straight")


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert set(found[1]) == set(expected[1])
    for name, value in expected[1].items():
        assert torch.equal(found[1][name], value), name


def test_asked_to_stop_all_ranks_save_together_and_the_same_command_goes_on(fits, straight):
    # As a user does it: a process that starts the other one, and alone is asked to stop.
    (process,) = fits.start("stopped", ranks=None)
    limit = time.monotonic() + 120
    while not (fits.folder / "stopped" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(process, signal.SIGTERM)
    assert fits.processes.wait() == [143], fits.log("stopped")
    step, _ = last(fits, "stopped")
    assert 0 < step < STEPS
    log = fits.log("stopped")
    assert f"after step {step}; the same command goes on from stopped/checkpoints/last.ckpt" in log
    assert "Traceback" not in log
    assert fits.fit("stopped") == [0, 0], fits.log("stopped")
    assert_same(last(fits, "stopped"), straight)


@pytest.mark.parametrize(
    ("shared", "hook", "rank", "step"),
    [(True, "on_validation_end", 0, 1), (False, "on_validation_end", 1, 1), (False, "on_train_epoch_end", 1, 2)],
)
def test_stopped_by_a_callback_of_one_rank_all_ranks_save_the_last_step(fits, shared, hook, rank, step):
    """Where the others do not learn of it, they wait for that rank forever."""
    root = f"{hook}-{shared}"
    flags = ["--checkpoint.every_n_steps", "100", "--trainer.val_check_interval", "1"]
    flags += ["--trainer.callbacks", "stop.Stop", "--trainer.callbacks.hook", hook, "--trainer.callbacks.rank", rank]
    if not shared:
        flags += ["--trainer.devices", 2, "--trainer.strategy", "ddp"]
    assert fits.fit(root, *flags, shared=shared) == [0, 0], fits.log(root)
    checkpoints = fits.folder / root / "checkpoints"
    rest = checkpoints / "last.ckpt" / "meta.pt" if shared else checkpoints / "last.ckpt"
    assert torch.load(rest, weights_only=True)["global_step"] == step
    assert json.loads((checkpoints / "finished.json").read_text())["step"] == step


def test_a_damaged_checkpoint_of_parts_is_left_for_the_one_before(fits, straight):
    shutil.copytree(fits.folder / "straight", fits.folder / "damaged")
    checkpoints = fits.folder / "damaged" / "checkpoints"
    (checkpoints / "finished.json").unlink()
    part = checkpoints / "last.ckpt" / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:100])
    assert fits.fit("damaged") == [0, 0], fits.log("damaged")
    assert "damaged/checkpoints/previous.ckpt" in fits.log("damaged")
    assert_same(last(fits, "damaged"), straight)


def test_parts_are_not_gone_on_from_by_a_process_alone(fits, straight):
    shutil.copytree(fits.folder / "straight", fits.folder / "alone")
    assert fits.fit("alone", "--trainer.accelerator", "cpu", shared=False, ranks=None) == [2]
    (line,) = [line for line in fits.log("alone").splitlines() if line.startswith("error: ")]
    assert "alone/checkpoints/last.ckpt: was written by processes that share the model" in line
    assert "Traceback" not in fits.log("alone")


def test_a_gradient_that_is_no_number_is_found_on_whichever_rank_it_is(fits):
    assert fits.fit("spoiled", "--trainer.callbacks", '[{"class_path": "spoil.Spoil"}]') == [2, 0]
    log = fits.log("spoiled")
    assert "Traceback" not in log
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert "at step 2 the gradient of backbone.model.model.norm.weight for row" in line
    assert line.endswith("the last checkpoint is spoiled/checkpoints/last.ckpt of step 1")


def test_parameters_smaller_than_the_number_of_processes_are_trained(fits):
    flags = ("--model.lora.r", "1", "--model.backbone.defer", "false", "--trainer.max_steps", "2")
    assert fits.fit("small", *flags) == [0, 0], fits.log("small")
    assert last(fits, "small")[0] == 2
