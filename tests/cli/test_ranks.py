"""``fit`` on several ranks: it goes on with another number of them, and ends where one of them does."""

import json
import os
import signal
import time

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dmaxlit
from dmaxlit.checkpoints.lightning_file import stored_model
from tests.cli.conftest import QUIET, TASK, data_of
from tests.processes import rank_of_slurm, rank_of_torchrun

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FSDP2 = "--trainer.strategy dmaxlit.training.fsdp.FSDP2Strategy --trainer.strategy.async_save true"
SIGNAL = """
import os, signal
from lightning import Callback

class Signal(Callback):
    # Rank 1 alone receives SLURM's requeue signal, in the midst of a step.

    def on_before_backward(self, trainer, module, loss):
        if trainer.global_rank == 1 and trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
"""
SCONTROL = '#!/bin/sh\necho "$@" >> scontrol.log\n'
LONG = "--model.lr_scheduler.T_max 5000"


class Ranks:
    """Command lines run by several ranks, in a folder."""

    def __init__(self, processes, folder):
        self.processes, self.folder = processes, folder

    def start(self, root, ranks, *flags, starter=rank_of_torchrun):
        """Start ``fit``; return the ids of its processes."""
        args = ["fit", "--config", "base.yaml", "--trainer.default_root_dir", root, "--trainer.devices", str(ranks)]
        args += [part for flag in flags for part in flag.split()]
        path = {"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"}
        options = {"folder": self.folder, "environment": path, "ranks": ranks, "starter": starter}
        return self.processes.start(args, self.folder / root, **options)

    def wait(self):
        """Return the exit codes of what was started last."""
        return self.processes.wait()

    def fit(self, root, ranks, *flags):
        """Run ``fit`` to its end."""
        self.start(root, ranks, *flags)
        assert self.wait() == [0] * ranks, self.log(root)

    def log(self, root):
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{root}.?")))

    def losses(self, root):
        """The loss of each step."""
        (folder,) = (self.folder / root / "lightning_logs").iterdir()
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        return {point.step: point.value for point in events.Scalars("train/loss")}


@pytest.fixture(scope="module")
def ranks(processes, tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("ranks")
    examples = dmaxlit.task("chain", **TASK).examples("train", 14)  # the last of four batches has two rows
    rows = [json.dumps({"prompt": example.prompt, "response": example.response}) for example in examples]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    settings = {
        "model": {
            "backbone": {"pretrained": str(tiny)},
            "noise": {"class_path": "on_policy", "init_args": {"level": [0.2, 0.9], "stratified": True}},
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.01}},
            "lr_scheduler": {"class_path": "CosineAnnealingLR", "init_args": {"T_max": 7}},
        },
        "data": data_of("corpus.jsonl", num_val=0),
        "checkpoint": {"every_n_steps": 1},
        "trainer": {**QUIET, "max_steps": 7, "gradient_clip_val": 1.0},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(settings))
    (folder / "requeued.py").write_text(SIGNAL)
    (folder / "scontrol").write_text(SCONTROL)
    (folder / "scontrol").chmod(0o755)
    return Ranks(processes, folder)


@pytest.fixture(scope="module")
def one(ranks):
    ranks.fit("one", 1, "--data.batch_size 4")
    return ranks.losses("one")


@pytest.mark.parametrize(("strategy", "mixed"), [("", "ddp"), (FSDP2, "fsdp2")])
def test_two_ranks_then_one_then_two_learn_as_one_does(ranks, one, strategy, mixed):
    # The second part begins in the middle of an epoch and ends in that of the next one.
    ranks.fit(mixed, 2, strategy, "--data.batch_size 2 --trainer.max_steps 2")
    ranks.fit(mixed, 1, strategy, "--data.batch_size 2 --trainer.accumulate_grad_batches 2 --trainer.max_steps 5")
    ranks.fit(mixed, 2, strategy, "--data.batch_size 1 --trainer.accumulate_grad_batches 2")
    assert sorted(one) == list(range(7))
    assert ranks.losses(mixed) == pytest.approx(one, rel=1e-4)
    weights = [stored_model(ranks.folder / root / "checkpoints" / "last.ckpt").model for root in ("one", mixed)]
    for (name, weight), (_, other) in zip(*(model.named_parameters() for model in weights), strict=True):
        torch.testing.assert_close(other, weight, atol=2e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("strategy", "root", "victim"), [("", "ddp-killed", 1), (FSDP2, "fsdp2-killed", 0)])
def test_where_a_rank_dies_the_other_stops_and_says_which(ranks, strategy, root, victim):
    processes = ranks.start(root, 2, strategy, "--data.batch_size 2 --trainer.max_steps 5000", LONG)
    limit = time.monotonic() + 60
    while not (ranks.folder / root / "checkpoints" / "last.ckpt").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(processes[victim], signal.SIGKILL)
    begin = time.monotonic()
    ended = ranks.wait()
    assert time.monotonic() - begin < 60
    assert ended[victim] == -signal.SIGKILL
    assert ended[1 - victim] == 1
    log = (ranks.folder / f"{root}.{1 - victim}").read_text()
    (error,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: rank {victim} (process {processes[victim]} on ")
    assert error.endswith(f"has died; rank {1 - victim} stops; the same command goes on from the last checkpoint")
    assert "Traceback" not in log


def test_slurm_s_requeue_signal_saves_after_the_step_and_the_job_goes_on(ranks, one):
    options = ["--data.batch_size 2", "--checkpoint.every_n_steps null", "--trainer.callbacks+ requeued.Signal"]
    ranks.start("requeued", 2, *options, starter=rank_of_slurm)
    assert ranks.wait() == [128 + signal.SIGUSR1, 0], ranks.log("requeued")
    assert (ranks.folder / "scontrol.log").read_text() == "requeue 7\n"
    assert "stopped by SIGUSR1 after step 3; the same command goes on from requeued/" in ranks.log("requeued")
    assert not list((ranks.folder / "requeued").glob("hpc_ckpt*"))  # which Lightning writes in the midst of a step
    ranks.start("requeued", 2, *options, starter=rank_of_slurm)
    assert ranks.wait() == [0, 0], ranks.log("requeued")
    assert ranks.losses("requeued") == pytest.approx(one, rel=1e-4)
