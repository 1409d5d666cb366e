"""Configurations, flags and checkpoints of version 0.1."""

import json
from importlib import import_module

import pytest
import torch
import yaml

from dmaxlit.cli import renames
from dmaxlit.cli.step_rows import STEP_ROWS
from tests.cli.conftest import printed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)

# Every setting that a run of 0.1 stored, for on-policy noise, AdamW and a distilled corpus.
STORED = {
    *("batch_size over all ranks", "seed_everything"),
    *(
        f"data.{name}"
        for name in ["class_path", "corpus", "eos_fill", "hub_split", "max_length", "num_train", "on_bad_row", "seed"]
    ),
    *(f"data.{name}" for name in ["task", "task_options", "task_options.operations"]),
    *(f"data.distill.{name}" for name in ["batch_size", "decoder", "keep", "max_new_tokens", "num_prompts", "seed"]),
    "data.distill.decoder_options.threshold",
    *(f"model.{name}" for name in ["clean_half", "compile", "lora", "lr_scheduler", "seed"]),
    *(
        f"model.backbone.{name}"
        for name in ["attn_implementation", "block_length", "class_path", "config", "defer", "dtype"]
    ),
    *(f"model.backbone.{name}" for name in ["eos_token", "gradient_checkpointing", "mask_token", "max_length"]),
    *("model.backbone.pretrained", "model.backbone.tokenizer"),
    *(
        f"model.noise.{name}"
        for name in ["alternate", "class_path", "level", "masked_weight", "per", "predicted_weight"]
    ),
    *(f"model.noise.{name}" for name in ["rollout", "schedule", "stratified", "temperature"]),
    *(f"model.optimizer.{name}" for name in ["amsgrad", "betas", "capturable", "class_path", "differentiable", "eps"]),
    *(f"model.optimizer.{name}" for name in ["foreach", "fused", "lr", "maximize", "weight_decay"]),
    *(f"trainer.{name}" for name in ["accumulate_grad_batches", "gradient_clip_algorithm", "gradient_clip_val"]),
    *("trainer.limit_train_batches", "trainer.overfit_batches", "trainer.precision"),
}

# Every class of 0.1 that a configuration could name and that has moved.
MOVED = [
    "dmaxlit.checkpoint_io.AtomicCheckpointIO",
    "dmaxlit.data.corpus.SelfDistilledDataModule",
    "dmaxlit.data.tasks.ChainTask",
    "dmaxlit.data.tasks.chain.ChainTask",
    "dmaxlit.data.tasks.jsonl.JsonlTask",
    "dmaxlit.data.tasks.reasoning_gym.ReasoningGymTask",
    "dmaxlit.lr_schedules.WarmupCosine",
    "dmaxlit.noise.RolloutKNoise",
    "dmaxlit.noise.SoftOnPolicyNoise",
    "dmaxlit.noise.rollout_k.RolloutKNoise",
    "dmaxlit.noise.soft_on_policy.SoftOnPolicyNoise",
    "dmaxlit.optim.MuonAdamW",
    "dmaxlit.schedules.CosineSchedule",
    "dmaxlit.schedules.FixedLevel",
    "dmaxlit.schedules.LevelCurriculum",
    "dmaxlit.schedules.LinearSchedule",
    "dmaxlit.schedules.PolynomialSchedule",
    "dmaxlit.schedules.UniformLevel",
    "dmaxlit.strategy.FSDP2Strategy",
]


@pytest.fixture(autouse=True)
def _notices(caplog):
    caplog.set_level("INFO")
    renames.announce.cache_clear()


def class_at(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("path", MOVED)
def test_a_moved_class_is_found_under_its_old_path_with_one_line(path, caplog):
    new = renames.current_path(path)
    assert new != path
    assert class_at(new).__name__ == path.rpartition(".")[2]
    renames.current_path(path)
    assert caplog.messages == [f"{path} is now {new}; the old name is read for this release only"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spd",
        "dmaxlit.noise.OnPolicyNoise",
        "my_file.MyNoise",
        "runs/a.jsonl",
        "dmaxlit.schedules",
        "dmaxlit.optim.x",
    ],
)
def test_other_texts_stay_unchanged(text, caplog):
    assert renames.current_path(text) == text
    assert caplog.messages == []


OLD = """
model:
  noise:
    class_path: dmaxlit.noise.SoftOnPolicyNoise
    init_args:
      truth: 0.5
      level: {class_path: dmaxlit.schedules.UniformLevel, init_args: {low: 0.25}}
      schedule: {class_path: dmaxlit.schedules.CosineSchedule}
  optimizer: {class_path: dmaxlit.optim.MuonAdamW, init_args: {lr: 0.01}}
  lr_scheduler: dmaxlit.lr_schedules.WarmupCosine
data:
  class_path: dmaxlit.data.corpus.SelfDistilledDataModule
  init_args:
    task: {class_path: dmaxlit.data.tasks.chain.ChainTask, init_args: {operations: 3}}
    task_options: null
trainer:
  strategy: {class_path: dmaxlit.strategy.FSDP2Strategy}
"""


def test_a_configuration_of_0_1_means_what_it_meant(dmax, base, tmp_path):
    (tmp_path / "old.yaml").write_text(OLD)
    settings = yaml.safe_load(printed(dmax, "--config", base, "--config", "old.yaml"))
    model, data = settings["model"], settings["data"]
    noise = model["noise"]["init_args"]
    assert model["noise"]["class_path"] == "dmaxlit.noise.experimental.soft_on_policy.SoftOnPolicyNoise"
    assert noise["clean_fraction"] == 0.5
    assert "truth" not in noise
    assert noise["level"] == {
        "class_path": "dmaxlit.noise.schedules.UniformLevel",
        "init_args": {"low": 0.25, "high": 1.0},
    }
    assert noise["schedule"]["class_path"] == "dmaxlit.noise.schedules.CosineSchedule"
    assert model["optimizer"]["class_path"] == "dmaxlit.training.muon.MuonAdamW"
    assert model["optimizer"]["init_args"]["lr"] == 0.01
    assert model["lr_scheduler"]["class_path"] == "dmaxlit.training.lr_schedules.WarmupCosine"
    assert class_at(data["class_path"]).__name__ == "SelfDistilledDataModule"
    assert data["init_args"]["task"]["class_path"] == "dmaxlit.tasks.chain.ChainTask"
    assert settings["trainer"]["strategy"]["class_path"] == "dmaxlit.training.fsdp.FSDP2Strategy"


@pytest.mark.parametrize("equals", [True, False])
def test_flags_of_0_1_too(dmax, base, equals):
    flag = ["--model.optimizer=dmaxlit.optim.MuonAdamW"] if equals else ["--model.optimizer", "dmaxlit.optim.MuonAdamW"]
    settings = yaml.safe_load(printed(dmax, "--config", base, *flag, "--model.optimizer.lr", "0.25"))
    assert settings["model"]["optimizer"]["class_path"] == "dmaxlit.training.muon.MuonAdamW"
    assert settings["model"]["optimizer"]["init_args"]["lr"] == 0.25


@pytest.mark.parametrize("name", ["soft_on_policy", "rollout_k"])
def test_a_flag_with_a_renamed_option_is_answered_with_the_new_name(dmax, base, name):
    refusal = dmax(f"fit --config {base} --model.noise {name} --model.noise.truth 0.5").refusal
    assert refusal.startswith("model.noise: unknown option 'truth' of ")
    assert "(it is now clean_fraction)" in refusal


def test_options_of_that_name_of_other_classes_are_left_alone():
    assert renames.current_options("my_file.SoftOnPolicyNoise", {"truth": 1}) == {"truth": 1}
    assert renames.current_options("dmaxlit.noise.OnPolicyNoise", {"truth": 1}) == {"truth": 1}


def test_stored_settings_of_0_1_are_those_of_the_same_run_now():
    stored = {
        "seed_everything": 0,
        "model.noise.class_path": "dmaxlit.noise.rollout_k.RolloutKNoise",
        "model.noise.truth": 0.25,
        "model.noise.decoder_options": None,
        "model.optimizer.class_path": "dmaxlit.optim.MuonAdamW",
        "data.task": "chain",
    }
    assert renames.current_settings(stored) == {
        "seed_everything": 0,
        "model.noise.class_path": "dmaxlit.noise.experimental.rollout_k.RolloutKNoise",
        "model.noise.clean_fraction": 0.25,
        "model.noise.decoder_options": None,
        "model.optimizer.class_path": "dmaxlit.training.muon.MuonAdamW",
        "data.task": "chain",
        "data.group_by_length": False,
        "data.streaming": False,
        "data.turns": "last",
        "objective": "views",
    }


def test_settings_of_now_stay_as_they_are_but_for_those_that_a_class_of_ones_own_lacks():
    now = {"data.class_path": "my_data.MyData", "data.my_option": 3}
    assert renames.current_settings(renames.current_settings(now)) == renames.current_settings(now)
    assert renames.current_settings(now | {"data.group_by_length": True})["data.group_by_length"] is True


def test_a_run_begun_with_0_1_is_resumed(dmax, base, tmp_path, caplog):
    flags = "--model.noise soft_on_policy --model.optimizer MuonAdamW --trainer.limit_val_batches 0"
    assert dmax(f"fit --config {base} {flags}").status == 0
    path = tmp_path / "runs" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    settings = json.loads(checkpoint["dmaxlit_run"]["settings"])
    old = {
        "model.noise.class_path": "dmaxlit.noise.soft_on_policy.SoftOnPolicyNoise",
        "model.optimizer.class_path": "dmaxlit.optim.MuonAdamW",
        "model.noise.truth": settings.pop("model.noise.clean_fraction"),
    }
    checkpoint["dmaxlit_run"]["settings"] = json.dumps({**settings, **old})
    torch.save(checkpoint, path)
    ended = dmax(f"fit --config {base} {flags} --trainer.max_steps 3")
    assert ended.status == 0, ended.err
    assert "resuming from runs/checkpoints/last.ckpt, after step 2" in caplog.text
    assert torch.load(path, weights_only=True)["global_step"] == 3


@pytest.mark.filterwarnings("ignore:.*made with other settings")
def test_a_run_begun_before_a_setting_was_added_is_resumed(dmax, base, tmp_path, caplog):
    """Fails for a setting that is new since 0.1, and neither free to change nor among the added ones."""
    flags = "--model.optimizer AdamW --data.distill.num_prompts 4 --trainer.limit_val_batches 0"
    assert dmax(f"fit --config {base} {flags}").status == 0
    path = tmp_path / "runs" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    settings = json.loads(checkpoint["dmaxlit_run"]["settings"])
    old = {"data.distill.batch_size": 64, **{name: value for name, value in settings.items() if name in STORED}}
    old |= {"batch_size over all ranks": settings[STEP_ROWS], "trainer.accumulate_grad_batches": 1}
    checkpoint["dmaxlit_run"]["settings"] = json.dumps(old)
    torch.save(checkpoint, path)
    ended = dmax(f"fit --config {base} {flags} --trainer.max_steps 3 --data.distill.batch_size 2")
    assert ended.status == 0, ended.err
    assert "resuming from runs/checkpoints/last.ckpt, after step 2" in caplog.text
