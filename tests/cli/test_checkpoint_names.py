"""What ``--ckpt_path`` may name."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.cli.checkpoint_names import newest_readable
from tests.cli.conftest import SHORT, step_of

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")

COMMANDS = ["fit", "validate", "test", "predict"]


@pytest.fixture
def begun(dmax, base):
    """A run of two steps."""
    ended = dmax(f"fit --config {base} {SHORT}")
    assert ended.status == 0, ended.err
    return base


@pytest.fixture
def loaded(caplog):
    """Return a function that names the checkpoint from which weights were loaded."""
    caplog.set_level("INFO")

    def path():
        return re.findall("Loaded model weights from the checkpoint at (.*)", caplog.text)[-1]

    return path


def test_last_is_the_run_s_own(dmax, begun, tmp_path, loaded):
    folder = tmp_path / "runs" / "checkpoints"
    for command in ("validate", "test", "predict"):
        assert dmax(f"{command} --config {begun} --ckpt_path last").status == 0
        assert loaded() == "runs/checkpoints/last.ckpt"
    assert dmax(f"fit --config {begun} {SHORT} --trainer.max_steps 4 --ckpt_path last").status == 0
    assert [step_of(folder / f"{name}.ckpt") for name in ("previous", "last")] == [3, 4]


def test_best_is_what_the_run_s_rule_keeps(dmax, base, tmp_path, loaded):
    rule = "--checkpoint.monitor train/loss --checkpoint.mode max --trainer.val_check_interval 1"
    assert dmax(f"fit --config {base} {rule}").status == 0
    folder = tmp_path / "runs" / "checkpoints"
    step = json.loads((folder / "best.json").read_text())["step"]
    assert step_of(folder / "best.ckpt") == step
    assert dmax(f"test --config {base} --ckpt_path best").status == 0
    assert loaded() == "runs/checkpoints/best.ckpt"
    assert dmax("export --model runs/checkpoints/best.ckpt --output model").status == 0
    assert json.loads((tmp_path / "model" / "dmaxlit.json").read_text())["training"]["steps"] == step
    uninterrupted = f"fit --config {base} {rule} --trainer.max_steps 3 --trainer.default_root_dir other"
    assert dmax(uninterrupted).status == 0
    assert dmax(f"fit --config {base} {rule} --trainer.max_steps 3 --ckpt_path best").status == 0
    one, two = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("other", "runs"))
    assert all(torch.equal(two["state_dict"][name], weight) for name, weight in one["state_dict"].items())


def test_checkpoints_of_a_run_are_not_replaced_by_one_that_begins_elsewhere(dmax, begun, tmp_path):
    shutil.copytree("runs", "other")
    line = f"fit --config {begun} --trainer.max_steps 3 --ckpt_path other/checkpoints/last.ckpt"
    refusal = dmax(line).refusal
    assert refusal.startswith(
        "ckpt_path: expected a checkpoint in 'runs/checkpoints' to go on from, as those there would"
    )
    assert "got 'other/checkpoints/last.ckpt'; `dmaxlit fit` without --ckpt_path goes on from them, another" in refusal
    assert step_of(tmp_path / "runs" / "checkpoints" / "last.ckpt") == 2
    assert dmax(f"{line} --checkpoint.resume false").status == 0
    assert step_of(tmp_path / "runs" / "checkpoints" / "last.ckpt") == 3


def test_last_is_looked_for_where_checkpoints_are_written(dmax, base, tmp_path, loaded):
    line = f"--config {base} --checkpoint.folder elsewhere"
    assert dmax(f"fit {line} {SHORT}").status == 0
    assert dmax(f"test {line} --ckpt_path last").status == 0
    assert loaded() == "elsewhere/last.ckpt"


def test_a_damaged_last_is_reported_and_the_one_before_it_judged(dmax, begun, tmp_path, loaded, caplog):
    path = tmp_path / "runs" / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:5000])
    assert dmax(f"test --config {begun} --ckpt_path last").status == 0
    assert "checkpoint: 'runs/checkpoints/last.ckpt' cannot be read" in caplog.text
    assert loaded() == "runs/checkpoints/previous.ckpt"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--ckpt_path last", "ckpt_path: expected a checkpoint in 'runs/checkpoints', the run's folder of them, found"),
        ("--ckpt_path hpc", "ckpt_path: expected a file hpc_ckpt_*.ckpt in 'runs' for 'hpc', found none"),
        (
            "--ckpt_path best",
            "ckpt_path: 'best' is the best.ckpt that --checkpoint.monitor keeps, found none; give the file of your "
            "choice in runs/checkpoints",
        ),
        ("--ckpt_path registry", "ckpt_path: expected a local file or folder, got 'registry'"),
        ("--ckpt_path Registry:some/model", "ckpt_path: expected a local file or folder, got 'Registry:some/model'"),
        ("--ckpt_path .", "ckpt_path: expected a checkpoint, got the folder '.'"),
        ("--ckpt_path last --trainer.default_root_dir null", "ckpt_path: 'last' is looked for in --trainer.default_ro"),
    ],
)
def test_names_of_nothing_are_refused(dmax, base, tmp_path, command, flags, refusal):
    assert dmax(f"{command} --config {base} {flags}").refusal.startswith(refusal)
    assert [path.name for path in tmp_path.iterdir()] == ["base.yaml"]


@pytest.mark.parametrize(
    "flag", ["--checkpoint.resume false", "--trainer.enable_checkpointing false", "--trainer.fast_dev_run true"]
)
def test_last_is_not_taken_where_nothing_is_resumed(dmax, begun, flag):
    refusal = dmax(f"fit --config {begun} {flag} --ckpt_path last").refusal
    assert refusal.startswith(f"ckpt_path: 'last' resumes the run, expected {flag.split()[0]} ")


def test_of_cluster_checkpoints_the_newest_is_taken(dmax, begun, tmp_path, loaded):
    run = tmp_path / "runs"
    for number, name in ((9, "previous"), (10, "last")):
        shutil.copy(run / "checkpoints" / f"{name}.ckpt", run / f"hpc_ckpt_{number}.ckpt")
    assert dmax(f"test --config {begun} --ckpt_path hpc").status == 0
    assert loaded() == "runs/hpc_ckpt_10.ckpt"


def test_a_folder_is_refused_with_what_was_meant(dmax, begun, tiny):
    for folder in ("runs", "runs/checkpoints"):
        refusal = dmax(f"test --config {begun} --ckpt_path {folder}").refusal
        assert refusal.endswith(f"got the folder '{folder}'; give 'runs/checkpoints/last.ckpt'")
    refusal = dmax(f"test --config {begun} --ckpt_path {tiny}").refusal
    assert refusal.endswith(f"; an exported model is given as --model.backbone.pretrained {tiny}")


# ---- the newest of several ------------------------------------------------------------------------------------------


def write(path, step, floats=1):
    metadata = {"config": json.dumps({"model_type": "qwen3"}), "metadata": "{}", "lora": None, "tokenizer": {}}
    content = {"dmaxlit": metadata, "state_dict": {"weight": torch.ones(floats)}, "global_step": step}
    torch.save(content, path)
    return path


def change_a_weight(path):
    content = path.read_bytes()
    begin = content.index(torch.ones(8).numpy().tobytes())
    path.write_bytes(content[:begin] + b"x" + content[begin + 1 :])


def test_the_one_with_the_most_steps_is_taken_the_first_of_two(tmp_path):
    old, new, again = (write(tmp_path / f"{name}.ckpt", step) for name, step in (("a", 2), ("b", 3), ("c", 3)))
    assert newest_readable([old, new, again])[0] == new


def test_only_the_newest_is_verified_and_those_before_it_if_it_is_damaged(tmp_path, caplog):
    caplog.set_level("INFO")
    old, new = write(tmp_path / "a.ckpt", 2, 100), write(tmp_path / "b.ckpt", 3, 100)
    change_a_weight(old)
    path, content = newest_readable([new, old])
    assert (path, content["global_step"], caplog.text) == (new, 3, "")
    change_a_weight(new)
    with pytest.raises(UserError, match=r"b.ckpt' cannot be read, it is damaged \(.*\), and there is none before it"):
        newest_readable([new, old])
    assert newest_readable([new, write(tmp_path / "a.ckpt", 2)])[0] == old
    assert "b.ckpt' cannot be read, it is damaged" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's count of pages")
def test_the_tensors_of_no_candidate_are_loaded(tmp_path):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    paths = [write(tmp_path / f"{step}.ckpt", step, 8 * 2**20) for step in (1, 2)]  # 32 MiB each
    before = resident()
    _, content = newest_readable(paths)
    assert resident() - before < 16 * 2**20
    assert content["state_dict"]["weight"].shape == (8 * 2**20,)
