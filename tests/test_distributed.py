import json

import pytest
import torch

from tests import distributed_run
from tests.conftest import make_denoiser

# The settings of one process, and of two. Windows of two micro-batches end with the epoch, so both see the same rows an
# update.
RUNS = {
    "plain": ({"batch_size": 8}, {"batch_size": 4}),
    "accumulated": ({"batch_size": 8, "accumulate": 2}, {"batch_size": 2, "accumulate": 4, "recompute": True}),
    # Five batches, so that the last of an epoch is divided among the processes.
    "max_tokens": (
        {"batch_size": 9, "max_tokens": 128, "accumulate": 2},
        {"batch_size": 9, "max_tokens": 128},
    ),
    "several": ({"batch_size": 8, "noise": "several"}, {"batch_size": 4, "noise": "several"}),
    "auxiliary": ({"batch_size": 8, "noise": "spans"}, {"batch_size": 4, "noise": "spans"}),
}


def one(folder, name):
    """Train in this process."""
    distributed_run.main(devices=1, output=folder / "one.pt", **RUNS[name][0])
    return torch.load(folder / "one.pt", weights_only=True)


@pytest.fixture(scope="module")
def two(processes, tmp_path_factory):
    """Train in two processes, which make all runs."""
    folder = tmp_path_factory.mktemp("two")
    outputs = {name: str(folder / f"{name}.pt") for name in RUNS}
    runs = [{"devices": 2, "output": outputs[name], **settings} for name, (_, settings) in RUNS.items()]
    codes = processes.run([json.dumps(runs)], folder / "log", module="tests.distributed_run", ranks=2)
    assert codes == [0, 0], (folder / "log.0").read_text()[-2000:]
    return {name: torch.load(output, weights_only=True) for name, output in outputs.items()}


def assert_same_run(one, two, logged=("train/loss_predicted", "train/corrected_predicted")):
    for name in one["weights"]:
        torch.testing.assert_close(one["weights"][name], two["weights"][name], atol=5e-6, rtol=1e-4)
    (expected,) = one["figures"]
    first, second = two["figures"]
    assert first == second  # so schedules that follow a figure do the same on all ranks
    assert sorted(first) == sorted(expected) == [1, 2, 3, 4, 5, 6]
    for step, figures in expected.items():
        assert {"train/loss", "lr", *logged} <= set(figures)
        assert first[step] == pytest.approx(figures, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "accumulated"])
def test_two_processes_equal_one_on_the_same_global_batch(two, tmp_path, name):
    assert_same_run(one(tmp_path, name), two[name])


@pytest.mark.slow
def test_each_of_two_processes_has_its_own_dropout(two, tmp_path):
    assert len(set(two["plain"]["seeds"])) == 2
    assert one(tmp_path, "plain")["seeds"] == (0,)  # as the run was seeded


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates_batches_of_max_tokens(two, tmp_path):
    assert_same_run(one(tmp_path, "max_tokens"), two["max_tokens"])


@pytest.mark.slow
def test_two_processes_equal_one_with_groups_samples_and_soft_targets(two, tmp_path):
    alone = one(tmp_path, "several")
    assert_same_run(alone, two["several"])
    logged = {"train/mmd_reward", "train/mmd_kernel", "train/trajectory_forwards", "train/loss_earlier"}
    assert logged <= set(alone["figures"][0][1])


@pytest.mark.slow
def test_two_processes_train_the_auxiliary_model_as_one_does_and_nothing_else(two, tmp_path):
    alone = one(tmp_path, "auxiliary")
    assert_same_run(alone, two["auxiliary"], logged=["train/loss_masked"])
    start = make_denoiser(block_length=8, sharpen=3.0).state_dict()
    trained = {name.removeprefix("backbone."): weight for name, weight in alone["weights"].items()}
    assert all(torch.equal(trained[name], weight) for name, weight in start.items() if name in trained)
    assert any(name.startswith("auxiliary.") for name in trained)
