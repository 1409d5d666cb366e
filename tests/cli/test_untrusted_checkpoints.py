"""What a checkpoint from elsewhere must not do to the machine of those who load it."""

import pytest
import torch

from tests.checkpoints.test_plain_data import Writer, hostile, server, trace  # noqa: F401


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_no_command_reads_a_remote_checkpoint(dmax, base, hostile, trace, server, command):  # noqa: F811
    outcome = dmax(f"{command} --config {base} --ckpt_path {server}/{hostile.name}")
    assert "ckpt_path: expected a local file or folder" in outcome.refusal
    assert not trace.exists()


@pytest.mark.parametrize("path", ["s3://bucket/a.ckpt", "registry:some/model", "memory://a.ckpt"])
def test_other_file_systems_are_refused(dmax, base, path):
    assert "expected a local file or folder" in dmax(f"test --config {base} --ckpt_path {path}").refusal


def test_weights_only_cannot_be_switched_off(dmax, base, hostile, trace):  # noqa: F811
    outcome = dmax(f"test --config {base} --ckpt_path {hostile} --weights_only false")
    assert "weights_only: expected true" in outcome.refusal
    assert not trace.exists()


def test_a_local_checkpoint_runs_nothing(dmax, base, hostile, trace):  # noqa: F811
    assert "checkpoint: " in dmax(f"test --config {base} --ckpt_path {hostile}").refusal
    assert not trace.exists()


def test_a_cluster_checkpoint_runs_nothing(dmax, base, tmp_path, trace):  # noqa: F811
    (tmp_path / "runs").mkdir()
    torch.save({"more": Writer(trace), "state_dict": {}}, tmp_path / "runs" / "hpc_ckpt_1.ckpt")
    for line in ("fit", "test --ckpt_path hpc"):
        assert dmax(f"{line} --config {base}").status != 0
        assert not trace.exists()


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
def test_no_setting_comes_from_a_checkpoint(dmax, base, tmp_path):
    """Settings in a checkpoint name classes, and Lightning imports those; fails if it does so elsewhere."""
    fitted = dmax(f"fit --config {base} --trainer.limit_val_batches 0")
    assert fitted.status == 0, fitted.err
    path = tmp_path / "runs" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] = {"noise": {"class_path": "planted.Noise"}}
    torch.save(content, tmp_path / "other.ckpt")
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\n")
    assert dmax(f"test --config {base} --ckpt_path other.ckpt").status == 0
    assert not (tmp_path / "it_ran").exists()
