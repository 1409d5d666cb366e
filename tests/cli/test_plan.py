import json
import shutil

import pytest

from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.formats.convert import convert
from dmaxlit.cli.plan import _PlanCLI, scenario_of
from dmaxlit.cli.training import run_cli
from tests.backbone.formats.llada2_published import write_published


def test_a_plan_is_printed_with_a_verdict(dmax, base, tiny):
    outcome = dmax("plan --gpu_memory 80 --config", base)
    assert outcome.status == 0, outcome.err
    for name in ("parameters", "gradients", "optimiser state", "activations", "logits"):
        assert name in outcome.out
    assert outcome.out.splitlines()[-1].startswith("fits: 1.")
    assert "2 views" in " ".join(outcome.out.replace("│", " ").split())


def test_what_does_not_fit_says_why_and_fails(dmax, base):
    outcome = dmax("plan --gpus 2 --gpu_memory 0.5 --config", base)
    assert outcome.status == 1
    assert outcome.out.splitlines()[-1].startswith("does not fit: 1.")
    assert "the largest part is activations" in outcome.out


def test_sharing_and_settings_of_fit_count(dmax, base):
    alone = dmax("plan --gpus 4 --config", base).out
    shared = dmax("plan --gpus 4 --trainer.strategy dmaxlit.training.fsdp.FSDP2Strategy --config", base).out
    assert "each with its own model" in alone
    assert "shared (FSDP2)" in shared
    assert "1/4 of it" in " ".join(shared.replace("│", " ").split())
    masked = dmax("plan --config", base, "--model.noise", "masked").out
    assert "1 view:" in " ".join(masked.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "mmd --model.noise.groups 3",
            [
                "1 view:",
                "2 forwards without gradients",
                "of 7 forwards of the frozen copy",
                "embedding and 2 of 2 layers",
            ],
        ),
        ("tsd", ["1 view:", "16 forwards without gradients", "those of teachers, and one gradient"]),
        ("tsd --model.noise.steps 3", ["1 view:", "3 forwards without gradients"]),
        ("multi_block --model.noise.base on_policy", ["2 views:"]),
        ("rollout_k", ["2 views:", "2 forwards without gradients"]),
    ],
)
def test_passes_without_gradients_and_a_frozen_copy_are_counted(dmax, base, monkeypatch, flags, expected):
    monkeypatch.setenv("COLUMNS", "200")
    outcome = dmax(f"plan --config {base} --model.noise {flags}")
    assert outcome.status == 0, outcome.err
    assert [text for text in expected if text not in outcome.out] == []
    assert ("frozen copy" in outcome.out) == flags.startswith("mmd")
    if flags.startswith("mmd"):
        adapted = dmax(f"plan --config {base} --model.noise {flags} --model.lora.r 4").out
        assert "of 7 forwards" in adapted
        assert "embedding and" not in adapted


def test_features_of_a_sharded_model_or_of_a_missing_layer_are_refused(dmax, base):
    plan = f"plan --config {base} --model.noise mmd"
    sharded = dmax(f"{plan} --trainer.strategy dmaxlit.training.fsdp.FSDP2Strategy")
    assert sharded.refusal == "noise: expected an unsharded model, since features need a whole frozen copy of it"
    assert dmax(f"{plan} --model.noise.layer 7").refusal.startswith("noise.layer: expected 0 to 1")


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


def test_a_published_checkpoint_is_planned_from_its_config_alone(dmax, tmp_path, shipped_configs):
    published, converted = write_published(tmp_path / "published"), tmp_path / "converted"
    convert(published, converted)
    for folder in (published, converted):
        for path in folder.glob("*.safetensors"):
            path.unlink()
    line = (
        f"plan --gpus 8 --config {shipped_configs / 'llada2_mini_oput.yaml'} --config {shipped_configs / 'fsdp.yaml'}"
    )
    outcome = [dmax(f"{line} --model.backbone.pretrained {folder}") for folder in (published, converted)]
    assert outcome[0].status == 0, outcome[0].err
    assert "glm4_moe on 8 GPUs, shared (FSDP2)" in outcome[0].out
    assert outcome[0].out == outcome[1].out


def test_a_hub_that_cannot_be_reached_is_said_by_name(dmax, base, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("model", "model.backbone.pretrained"):
        outcome = dmax("plan --config", base, f"--{name}", "someone/none")
        assert outcome.refusal == f"{name}: 'someone/none' is not a local folder, and the hub cannot be reached"


@pytest.mark.parametrize(
    ("stored", "max_length", "of_data", "context"),
    [
        (None, None, None, 128),  # what the model has positions for
        (64, None, None, 64),  # the checkpoint's value is the default
        (64, 96, None, 96),  # a setting goes before it, up or down
        (64, 48, None, 48),
        (64, 999, None, 128),  # but never beyond the positions
        (None, 100, None, 96),  # only whole blocks count
        (64, None, 40, 32),  # rows may be shorter than the context
    ],
)
def test_plan_and_training_agree_on_the_length_of_a_row(tiny, tmp_path, stored, max_length, of_data, context):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    metadata = json.loads((folder / "dmaxlit.json").read_text()) | ({"max_length": stored} if stored else {})
    (folder / "dmaxlit.json").write_text(json.dumps(metadata))
    lines = [f"--model.backbone.pretrained={folder}", "--data.task=chain"]
    lines += [f"--model.backbone.max_length={max_length}"] if max_length else []
    lines += [f"--data.max_length={of_data}"] if of_data else []
    scenario = scenario_of(run_cli("fit", lines, cli=_PlanCLI))
    denoiser = Denoiser(pretrained=str(folder), max_length=max_length)
    assert scenario.length == context
    trained = min(denoiser.max_length, of_data or denoiser.max_length) // denoiser.block_length * denoiser.block_length
    assert trained == context


def test_plan_refuses_the_model_that_training_refuses(dmax, tmp_path, base):
    config = {"model_type": "mistral", "sliding_window": 32, "hidden_size": 32, "num_hidden_layers": 1}
    line = f"--config {base} --model.backbone.pretrained null --model.backbone.tokenizer chain"
    line += f" --model.backbone.config '{json.dumps(config)}'"
    refusals = [dmax(f"{command} {line}").refusal for command in ("plan", "fit")]
    assert "the sliding window of mistral" in refusals[0]
    assert refusals[0] == refusals[1]


def test_rows_shorter_than_a_block_are_refused(dmax, base):
    assert dmax(f"plan --config {base} --data.max_length 3").refusal == (
        "data.max_length: expected at least one block of 16, got 3"
    )
