import pytest


def test_a_plan_is_printed_with_a_verdict(dmax, base, tiny):
    shown = dmax("plan --gpu_memory 80 --config", base)
    assert shown.status == 0, shown.err
    for name in ("parameters", "gradients", "optimiser state", "activations", "logits"):
        assert name in shown.out
    assert shown.out.splitlines()[-1].startswith("fits: 1.")
    assert "2 views" in " ".join(shown.out.replace("│", " ").split())


def test_what_does_not_fit_says_why_and_fails(dmax, base):
    shown = dmax("plan --gpus 2 --gpu_memory 0.5 --config", base)
    assert shown.status == 1
    assert shown.out.splitlines()[-1].startswith("does not fit: 1.")
    assert "the largest part is activations" in shown.out


def test_sharing_and_settings_of_fit_count(dmax, base):
    alone = dmax("plan --gpus 4 --config", base).out
    shared = dmax("plan --gpus 4 --trainer.strategy dmaxlit.strategy.FSDP2Strategy --config", base).out
    assert "each with its own model" in alone
    assert "shared (FSDP2)" in shared
    assert "1/4 of it" in " ".join(shared.replace("│", " ").split())
    masked = dmax("plan --config", base, "--model.noise", "masked").out
    assert "1 view:" in " ".join(masked.replace("│", " ").split())


def test_a_plan_reads_no_weights(dmax, base, tiny, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in tiny.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    assert dmax("plan --config", base, "--model.backbone.pretrained", folder).status == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [("--gpus 0", "gpus: expected"), ("--gpu_memory -1", "gpu_memory: expected"), ("--gpus x", "--gpus: ")],
)
def test_bad_arguments_are_refused(dmax, base, line, message):
    assert message in dmax(f"plan {line} --config", base).refusal
