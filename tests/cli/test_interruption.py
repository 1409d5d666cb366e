"""Training that is killed, and started again with the same command, ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.conftest import CHECKPOINT, QUIET, data_of
from tests.processes import ENVIRONMENT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS = 7

SLOW_NOISE = f'''
import time
from pathlib import Path
import torch
from dmaxlit.noise import OnPolicyNoise

class SlowNoise(OnPolicyNoise):
    """OPUT that takes its time, and uses the global random generator, so that it matters where that is.

    The last step does not begin while there is a file named ``hold``.
    """

    def views(self, clean, generator):
        time.sleep(0.03)
        while clean.step == {STEPS - 1} and Path("hold").exists():
            time.sleep(0.01)
        self.temperature = float(0.9 + torch.rand(()) / 5)
        return (yield from super().views(clean, generator))
'''


class Runs:
    """Command lines as processes in a folder."""

    def __init__(self, processes, folder):
        self.processes, self.folder = processes, folder

    def fit(self, root, *flags, send=None, when=None, die_in_write=-1):
        """Exit code of ``fit``, to which a signal is sent as soon as ``when()`` holds."""
        args = ["fit", "--config", "base.yaml", "--trainer.default_root_dir", root, *flags]
        log = self.folder / f"{root}.log"
        (process,) = self.processes.start(args, log, folder=self.folder, die_in_write=die_in_write)
        if send is not None:
            limit = time.monotonic() + 60
            while not when() and time.monotonic() < limit:
                time.sleep(0.01)
            os.kill(process, send)
        return self.processes.wait()[0]

    def last(self, root):
        path = self.folder / root / "checkpoints" / "last.ckpt"
        return torch.load(path, weights_only=True) if path.exists() else {"global_step": 0}

    def written(self, root):
        """When the last checkpoint was written."""
        path = self.folder / root / "checkpoints" / "last.ckpt"
        return path.stat().st_mtime_ns if path.exists() else 0

    def log(self, root):
        return (self.folder / f"{root}.log").read_text()

    def scalars(self, root):
        """What TensorBoard shows, but for what is measured in seconds."""
        folder = sorted((self.folder / root / "lightning_logs").iterdir())[-1]
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if not tag.endswith(("tps", "seconds"))]
        return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


@pytest.fixture(scope="module")
def runs(processes, tmp_path_factory, tiny, corpus):
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        "model": {
            "backbone": {"pretrained": str(tiny)},
            "noise": {
                "class_path": "slow_noise.SlowNoise",
                "init_args": {"level": [0.2, 0.9], "stratified": True},
            },
            "optimizer": {"class_path": "MuonAdamW"},
            "lr_scheduler": {"class_path": "CosineAnnealingLR", "init_args": {"T_max": STEPS}},
        },
        "data": data_of(corpus),
        "checkpoint": {"every_n_steps": 1},
        "trainer": {
            **QUIET,
            "max_steps": STEPS,
            "gradient_clip_val": 1.0,
            "callbacks": [
                {"class_path": "SPDValidation", "init_args": {"curve": None, "decoders": [{"name": "threshold"}]}},
                CHECKPOINT,
            ],
        },
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(settings))
    (folder / "slow_noise.py").write_text(SLOW_NOISE)
    return Runs(processes, folder)


ACCUMULATING = ["--trainer.accumulate_grad_batches", "3", "--trainer.max_steps", "4", "--data.num_workers", "2"]


@pytest.fixture(scope="module")
def straight(runs):
    assert runs.fit("straight") == 0, runs.log("straight")
    return runs.last("straight")


@pytest.fixture(scope="module")
def accumulated(runs):
    assert runs.fit("accumulated", *ACCUMULATING, "--data.num_workers", "0") == 0, runs.log("accumulated")
    return runs.last("accumulated")


def assert_same(found, expected):
    assert found["global_step"] == expected["global_step"]
    assert found["lr_schedulers"] == expected["lr_schedulers"]
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (found, expected)]
    for number, state in states[1].items():
        for name, value in state.items():
            assert torch.equal(states[0][number][name], value), name


def test_killed_at_any_moment_it_ends_the_same(runs, straight):
    draw, ended = random.Random(3), []
    (runs.folder / "hold").touch()  # where steps go by unseen, on a busy machine, none of them is the last
    for _ in range(3):
        num_writes, pause, seen, begin = draw.randint(1, 2), draw.random() * 0.06, {runs.written("killed")}, []

        def reached(num_writes=num_writes, pause=pause, seen=seen, begin=begin):
            seen.add(runs.written("killed"))
            if not begin and len(seen) > num_writes:
                begin.append(time.monotonic())
            return bool(begin) and time.monotonic() >= begin[0] + pause

        ended.append(runs.fit("killed", send=signal.SIGKILL, when=reached))
    assert ended == [-signal.SIGKILL] * 3
    (runs.folder / "hold").unlink()
    assert runs.fit("killed") == 0, runs.log("killed")
    assert_same(runs.last("killed"), straight)
    assert runs.scalars("killed") == runs.scalars("straight")


def test_killed_while_it_writes_a_checkpoint_it_ends_the_same(runs, straight):
    # A checkpoint takes one of the file and two of its folder: once it is not yet whole, once it has not yet its name.
    for write in (5, 6):
        assert runs.fit("writing", die_in_write=write) == -signal.SIGKILL
    assert runs.fit("writing") == 0, runs.log("writing")
    assert_same(runs.last("writing"), straight)
    assert runs.scalars("writing") == runs.scalars("straight")
    left = sorted(path.name for path in (runs.folder / "writing" / "checkpoints").iterdir() if path.name[:5] != "epoch")
    assert left == ["finished.json", "last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_finishes_the_step_saves_and_goes_on(runs, accumulated, number, status):
    # No checkpoints but that one: not a step may be lost. With accumulation and worker processes.
    flags, root = [*ACCUMULATING, "--checkpoint.every_n_steps", "null"], f"stopped{status}"

    def begun():
        logs = runs.folder / root / "lightning_logs"
        return any(path.stat().st_size > 1000 for path in logs.glob("*/events*"))

    assert runs.fit(root, *flags, send=number, when=begun) == status
    step = runs.last(root)["global_step"]
    assert 0 < step < 4
    assert f"after step {step}; the same command goes on from {root}/checkpoints/last.ckpt" in runs.log(root)
    assert "Traceback" not in runs.log(root)
    assert runs.fit(root, *flags) == 0, runs.log(root)
    assert_same(runs.last(root), accumulated)


def test_as_a_user_does_it(runs, straight):
    command = [sys.executable, "-m", "dmaxlit", "fit", "--config", "base.yaml", "--trainer.default_root_dir", "user"]
    log = (runs.folder / "user.log").open("w")
    process = subprocess.Popen(command, cwd=runs.folder, env=ENVIRONMENT, stdout=log, stderr=log)
    while not runs.written("user") and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert runs.fit("user") == 0, runs.log("user")
    assert "resuming from user/checkpoints/last.ckpt, after step" in runs.log("user")
    assert_same(runs.last("user"), straight)


BROKEN_NOISE = """
import dataclasses
from dmaxlit.noise import OnPolicyNoise

class BrokenNoise(OnPolicyNoise):
    '''OPUT whose second view breaks on row 5 in the fourth step and after.'''

    def views(self, clean, generator):
        dialogue = super().views(clean, generator)
        view = dialogue.send((yield next(dialogue)))
        broken = clean.step >= 3 and any(index == 5 for _, index in generator._keys)
        yield dataclasses.replace(view, weight=float("nan") if broken else 1.0)
"""


def test_two_ranks_stop_together_before_a_broken_update(runs):
    (runs.folder / "broken_noise.py").write_text(BROKEN_NOISE)
    flags = "--trainer.default_root_dir ranks --model.noise broken_noise.BrokenNoise --trainer.devices 2"
    flags += " --trainer.strategy ddp --trainer.accumulate_grad_batches 2 --data.batch_size 1 --trainer.max_steps 9"
    command = ["fit", "--config", "base.yaml", *flags.split(), "--model.lr_scheduler.T_max", "9"]
    assert runs.processes.run(command, runs.folder / "ranks", folder=runs.folder, ranks=2) == [2, 0]
    output = "".join((runs.folder / f"ranks.{rank}").read_text() for rank in range(2))
    refusals = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(refusals) == 1
    assert "at step 4 a loss of nan in view predicted for row 5 (" in refusals[0]
    assert refusals[0].endswith("the last checkpoint is ranks/checkpoints/last.ckpt of step 3")
    assert "Traceback" not in output
    last = runs.last("ranks")
    assert last["global_step"] == 3
    assert all(value.isfinite().all() for value in last["state_dict"].values())
