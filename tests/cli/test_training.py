"""Runs of `fit`, `test`, `validate` and `predict`, from beginning to end."""

import json

import pytest
import torch
import yaml

import dmaxlit
from tests.cli.conftest import QUIET, printed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)


def test_a_run_is_repeated_continued_tested_and_exported(dmax, base, tmp_path, tiny):
    last = tmp_path / "runs" / "checkpoints" / "last.ckpt"
    for version, flags in enumerate(["", "--checkpoint.resume false"]):
        ended = dmax(f"fit --config {base} {flags}")
        assert ended.status == 0, ended.err
        run = tmp_path / "runs" / "lightning_logs" / f"version_{version}"
        assert (run / "config.yaml").is_file()
        assert list(run.glob("events.out.tfevents*"))
        names = sorted(path.name for path in last.parent.iterdir())
        assert names == ["epoch=0-step=2.ckpt", "finished.json", "last.ckpt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "runs"]

    assert dmax(f"test --config {run / 'config.yaml'} --ckpt_path", last).status == 0
    assert dmax("export --output exported --checkpoint", last).status == 0
    weights = [dmaxlit.load(path).backbone.model.state_dict() for path in ("exported", last, tiny)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())

    assert dmax(f"fit --config {base} --trainer.max_steps 3 --ckpt_path last").status == 0
    assert torch.load(last, weights_only=True)["global_step"] == 3


def test_a_checkpoint_of_another_model_is_refused(dmax, base, tmp_path):
    assert dmax(f"fit --config {base} --trainer.max_steps 1 --trainer.limit_val_batches 0").status == 0
    other = "{model_type: qwen3, hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}"
    flags = [
        "--model.backbone.pretrained",
        "null",
        "--model.backbone.tokenizer",
        "chain",
        "--model.backbone.config",
        other,
    ]
    refused = dmax(["test", "--config", str(base), *flags, "--ckpt_path", "runs/checkpoints/last.ckpt"])
    assert refused.refusal.startswith("ckpt_path: expected the weights of the configured model, got others, such as")


def test_without_a_root_folder_everything_is_in_the_run_s_own(dmax, base, tmp_path):
    flags = "--trainer.default_root_dir null --trainer.max_steps 1 --trainer.limit_val_batches 0"
    assert dmax(f"fit --config {base} {flags}").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "lightning_logs"]


def test_a_tilde_in_a_configuration_is_the_home_folder(dmax, base, tmp_path, tiny, corpus, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "rows.jsonl").write_bytes(corpus.read_bytes())
    (tmp_path / "home" / "tokenizer").symlink_to(tiny)
    settings = yaml.safe_load(base.read_text())
    settings["trainer"] |= {"default_root_dir": "~/runs", "max_steps": 1, "limit_val_batches": 0}
    settings["data"]["corpus"] = "~/rows.jsonl"
    settings["model"]["backbone"]["tokenizer"] = "~/tokenizer"
    base.write_text(yaml.safe_dump(settings))
    ended = dmax(f"fit --config {base}")
    assert ended.status == 0, ended.err
    assert (tmp_path / "home" / "runs" / "checkpoints" / "last.ckpt").is_file()
    assert dmax(f"test --config {base} --ckpt_path ~/runs/checkpoints/last.ckpt").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "home"]


def test_optimiser_and_schedule_are_classes_from_the_command_line(dmax, base, tmp_path):
    flags = "--model.optimizer MuonAdamW --model.optimizer.adamw_lr 0.5 --trainer.max_steps 2"
    schedule = "--model.lr_scheduler CosineAnnealingLR --model.lr_scheduler.T_max 4"
    assert dmax(f"fit --config {base} {flags} {schedule}").status == 0
    saved = torch.load(tmp_path / "runs" / "checkpoints" / "last.ckpt", weights_only=True)
    (state,) = saved["lr_schedulers"]
    assert (state["T_max"], state["last_epoch"]) == (4, 2)
    assert state["base_lrs"] == [0.02, 0.5]


def test_a_schedule_that_monitors_a_metric_is_advanced_each_epoch(dmax, base, tmp_path):
    plateau = "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.monitor train/loss"
    ended = dmax(f"fit --config {base} {plateau} --trainer.max_steps -1 --trainer.max_epochs 3")
    assert ended.status == 0, ended.err
    (state,) = torch.load(tmp_path / "runs" / "checkpoints" / "last.ckpt", weights_only=True)["lr_schedulers"]
    assert state["last_epoch"] == 2  # two steps an epoch; the checkpoint of the third is written before its end


def test_the_seed_is_fixed_by_default(dmax, tiny):
    assert yaml.safe_load(printed(dmax, "--model.backbone.pretrained", tiny))["seed_everything"] == 0


def test_one_batch_is_not_all_batches(dmax, tiny):
    lines = printed(dmax, "--model.backbone.pretrained", tiny, "--trainer.limit_train_batches", 1).splitlines()
    assert "  limit_train_batches: 1" in lines


@pytest.mark.parametrize(("command", "family"), [("validate", "decode"), ("test", "test")])
def test_validate_and_test_print_figures_without_any_callback_configured(dmax, base, command, family):
    ended = dmax(f"{command} --config {base}")
    assert ended.status == 0, ended.err
    for name in ("accuracy", "tpf", "finished"):
        assert f"{family}/spd/{name}" in ended.out


def test_predict_writes_the_answers_in_the_order_of_the_prompts(dmax, base, tmp_path):
    ended = dmax(f"predict --config {base} --output out/answers.jsonl --decoder threshold --decoder.threshold 0.5")
    assert ended.status == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    examples = dmaxlit.task("chain", operations=3).examples("test", 3)
    assert [row["prompt"] for row in rows] == [example.prompt for example in examples]
    assert [row["correct"] for row in rows] == [e.check(row["response"]) for e, row in zip(examples, rows, strict=True)]
    assert "threshold threshold=0.5" in ended.out


def test_predict_writes_to_the_run_s_folder_by_default(dmax, base, tmp_path):
    before = set(tmp_path.iterdir())
    ended = dmax(f"predict --config {base}")
    assert ended.status == 0, ended.err
    assert len((tmp_path / "runs" / "predictions.jsonl").read_text().splitlines()) == 3
    assert set(tmp_path.iterdir()) == before | {tmp_path / "runs"}


def test_predict_writes_nothing_to_the_current_folder_unasked(dmax, base, tmp_path):
    before = set(tmp_path.iterdir())
    for folder in ("null", ".", tmp_path):
        ended = dmax(f"predict --config {base} --trainer.default_root_dir {folder}")
        assert ended.err.splitlines()[-1] == "error: output: expected a file to write the answers to, got none"
    assert set(tmp_path.iterdir()) == before
    assert dmax(f"predict --config {base} --trainer.default_root_dir null --output here.jsonl").status == 0
    assert set(tmp_path.iterdir()) == before | {tmp_path / "here.jsonl"}


def test_predict_refuses_a_folder_as_its_output(dmax, base, tmp_path):
    ended = dmax(f"predict --config {base} --output", tmp_path)
    assert ended.err.splitlines()[-1] == f"error: output: expected a file to write, got the folder '{tmp_path}'"


def test_predict_refuses_an_unknown_decoder(dmax, base):
    ended = dmax(f"predict --config {base} --decoder nope")
    assert ended.err.splitlines()[-1].startswith(
        "error: unknown decoder 'nope'; known: codila, codila_verify, credit, "
    )


def test_the_bar_names_no_last_epoch_of_a_run_counted_in_steps(dmax, base):
    done = dmax(f"fit --config {base} --trainer.enable_progress_bar true --trainer.limit_val_batches 0")
    assert done.status == 0
    assert "Epoch 0" in done.out
    assert "/-2" not in done.out


def test_another_bar_takes_its_place(dmax, base):
    bar = '[{"class_path": "TQDMProgressBar"}]'
    done = dmax(
        f"fit --config {base} --trainer.enable_progress_bar true --trainer.limit_val_batches 0".split(),
        "--trainer.callbacks",
        bar,
    )
    assert done.status == 0
    assert "Epoch 0" in done.out + done.err


def test_barebones_trains_without_checkpoints_and_bar(dmax, base, tmp_path):
    settings = yaml.safe_load(base.read_text())
    for name in ("callbacks", *QUIET.keys() - {"accelerator"}):
        settings["trainer"].pop(name)
    base.write_text(yaml.safe_dump(settings))
    done = dmax(f"fit --config {base} --trainer.barebones true")
    assert done.status == 0, done.err
    assert list((tmp_path / "runs").rglob("*.ckpt")) == []
    assert "Epoch 0" not in done.out + done.err
