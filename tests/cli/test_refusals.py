"""What `fit` refuses, in one line."""

import os

import pytest
import torch
import yaml

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        (
            "--model.noise no_such_noise",
            "unknown noise strategy 'no_such_noise'; known: complementary",
        ),
        ("--model.noise OnPolicyNoise --model.noise.level 1.7", "level: expected a number in [0, 1], got 1.7"),
        ("--model.noise.rollout smple", "model.noise.rollout: expected 'sample' or 'argmax', got 'smple'"),
        ("--trainer.max_stps 3", "unknown setting 'trainer.max_stps' (did you mean trainer.max_steps?)"),
        ("--trainer.max_steps many", "trainer.max_steps: expected int, got 'many'"),
        ("--model.optimizer SGDD", "model.optimizer: expected the name or import path of a class, got 'SGDD'"),
        ("--model.lr_scheduler CosineAnnealingLR", "model.lr_scheduler: the following arguments are required: T_max"),
        ("--data.task chan", "unknown task 'chan'; known: asdiv, chain, "),
        ("--data.task.length 4", "task 'chain': unknown option length; known: difficulty, operations, seed"),
        ("--data.num_workers 1e9", "data.num_workers: expected int, got"),
        ("--data.eval_batch_size null", "eval_batch_size: expected a number, got null"),
        ("--data.num_workers 1000000000", "num_workers: expected at most 256 processes, got 1000000000"),
        ("--data.batch_size 0", "batch_size: expected at least 1, got 0"),
        (
            "--model.backbone.block_length 999",
            "block_length: expected at most the 128 positions of the model or max_length, got 999",
        ),
        ("--model.backbone.pretrained builtin:no", "model.backbone.pretrained: unknown built-in model 'no'"),
        ("--ckpt_path no.ckpt", "checkpoint: expected a file, got 'no.ckpt' (no such file)"),
        ("--config no.yaml", "config: File does not exist:"),
        ("--seed_everything -1", "seed_everything: expected an integer from 0 to 4294967295, got -1"),
        ("--trainer.accumulate_grad_batches 0", "trainer.accumulate_grad_batches: expected at least 1, got 0"),
        ("--trainer.check_val_every_n_epoch 0", "trainer.check_val_every_n_epoch: expected at least 1, got 0"),
        ("--trainer.gradient_clip_val -1", "trainer.gradient_clip_val: expected at least 0, got -1"),
        ("--trainer.gradient_clip_val .nan", "trainer.gradient_clip_val: expected a number, got nan"),
        ("--trainer.log_every_n_steps -1", "trainer.log_every_n_steps: expected at least 0, got -1"),
        ("--trainer.val_check_interval 0", "trainer.val_check_interval: expected a number above 0, got 0"),
        ("--model.noise.temperature .nan", "model.noise.init_args.temperature: expected a number, got nan"),
        ("--model.noise.temperature 1e-300", "temperature: expected 0 or a number from 1e-06, got 1e-300"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, base, flags, refusal):
    assert dmax(f"fit --config {base} {flags}").refusal.startswith(refusal)


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--trainer.accelerator tpu", "trainer: "),
        ("--trainer.accelerator gpus", "trainer: You selected an invalid accelerator name"),
        ("--model.optimizer AdamW --model.optimizer.lr -1", "optimizer: Invalid learning rate: -1.0"),
        ("--trainer.val_check_interval 1000", "trainer: `val_check_interval` (1000) must be less than or equal"),
        ("--trainer.limit_train_batches 1e-300", "trainer: You requested to check 1e-300 of the"),
        ("--model.lr_scheduler WarmupCosine --model.lr_scheduler.warmup null", "optimizer: '<=' not supported"),
        ("--model.optimizer SparseAdam", "optimizer: expected one for dense gradients, got SparseAdam"),
        ("--data.corpus no.jsonl", "corpus: no such file: 'no.jsonl'"),
        (
            "--trainer.callbacks SPDValidation --trainer.callbacks.decoders [{name:,nope}]",
            "trainer.callbacks",
        ),
    ],
)
def test_bad_input_found_later_is_refused_in_one_line_too(dmax, base, flags, refusal):
    ended = dmax(f"fit --config {base} {flags}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith(f"error: {refusal}")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        ("model: [", "bad.yaml: is not YAML (while parsing"),
        ("hello", "bad.yaml: expected a mapping of settings, got a value of type str"),
        (
            "model: {noise: nope}",
            "bad.yaml: unknown noise strategy 'nope'; known: complementary",
        ),
        ("model: {nois: masked}", "unknown setting 'model.nois' (did you mean model.noise?)"),
        (
            "trainer: {callbacks: [{class_path: Nothing}]}",
            "bad.yaml: trainer.callbacks: expected the name or import path",
        ),
        ("config: 5", "bad.yaml: config: expected the name of the file it starts from, got 5"),
        ("trainer: false", "bad.yaml: trainer: expected a mapping of settings, got a value of type bool"),
        ("finite_guard: [1]", "bad.yaml: finite_guard: expected a mapping of settings, got a value of type list"),
        ("model: {lr_scheduler: {a: null}}", "bad.yaml: model.lr_scheduler: unknown option 'a'"),
        ("model: {noise: null}", "noise: expected a strategy or its registered name, got None"),
        ("trainer:", "bad.yaml: trainer: expected a mapping of settings, got null"),
        ("model: &m {noise: *m}", "bad.yaml: expected settings, got more than 100000 values (aliases expanded)"),
        ("model: " + "[" * 10_000, "bad.yaml: expected settings, got a value nested too deeply"),
        ("model: {seed: 2001-13-01}", "bad.yaml: is not YAML (month must be in 1..12"),
        ("config: gone.yaml", "bad.yaml: config: expected the file it starts from, got 'gone.yaml'"),
    ],
)
def test_a_bad_file_is_refused_by_its_name(dmax, base, tmp_path, content, refusal):
    (tmp_path / "bad.yaml").write_text(content)
    assert dmax(f"fit --config {base} --config bad.yaml").refusal.startswith(refusal)


def test_a_file_that_is_not_utf8_is_refused_by_its_name(dmax, base, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"model: {seed: caf\xe9}")
    refusal = "bad.yaml: expected text in UTF-8, got the byte 0xe9 at 17"
    assert dmax(f"fit --config {base} --config bad.yaml").refusal == refusal
    assert dmax("generate --config bad.yaml").refusal == refusal


@pytest.mark.parametrize("command", ["fit", "generate"])
def test_settings_that_can_be_read_only_once_are_refused(dmax, command):
    end, begin = os.pipe()
    try:
        os.write(begin, b"model: {seed: 1}")
        os.close(begin)
        refusal = dmax(f"{command} --config /dev/fd/{end}").refusal
    finally:
        os.close(end)
    assert refusal == f"/dev/fd/{end}: expected a file, which is read more than once, got a pipe or a device"


def test_aliases_that_expand_to_millions_of_values_are_refused(dmax, base, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    refusal = "bomb.yaml: expected settings, got more than 100000 values (aliases expanded)"
    assert dmax(f"fit --config {base} --config bomb.yaml").refusal == refusal
    assert dmax("generate --config bomb.yaml").refusal == refusal


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--checkpoint.folder file", "file"),
        ("--trainer.default_root_dir file/below", "file/below"),
        (f"--data.corpus {'a' * 300}.jsonl", "corpus: no such file"),
    ],
)
def test_what_the_system_refuses_is_one_line_naming_the_file(dmax, base, tmp_path, flags, refusal):
    (tmp_path / "file").write_text("")
    ended = dmax(f"fit --config {base} {flags}")
    assert ended.status == 2
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert refusal in ended.err.splitlines()[-1]


def test_a_model_and_data_are_required(dmax):
    assert dmax("fit").refusal == "the following arguments are required: model.backbone, data"


def test_a_file_that_is_no_checkpoint_is_refused(dmax, base, tmp_path):
    (tmp_path / "bad.ckpt").write_text("no")
    assert dmax(f"test --config {base} --ckpt_path bad.ckpt").refusal.startswith(
        "checkpoint: 'bad.ckpt' cannot be read"
    )
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert dmax(f"test --config {base} --ckpt_path other.ckpt").refusal == (
        "checkpoint: expected one written by dmaxlit, got 'other.ckpt'"
    )


@pytest.mark.parametrize(("command", "split"), [("validate", "val"), ("test", "test"), ("predict", "test")])
def test_a_command_that_decodes_needs_prompts(dmax, base, command, split):
    assert dmax(f"{command} --config {base} --data.num_{split} 0").err.splitlines()[-1] == (
        f"error: data.num_{split}: expected at least 1, got 0"
    )
    settings = yaml.safe_load(base.read_text())
    del settings["data"]["task"], settings["data"]["task_options"]
    base.write_text(yaml.safe_dump(settings))
    ended = dmax(f"{command} --config {base}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1] == "error: data.task: expected a task, whose prompts are decoded, got none"


@pytest.mark.parametrize("callback", ["EarlyStopping", "ModelCheckpoint", None])
def test_what_may_be_monitored_is_listed_on_a_mistake(dmax, base, callback):
    settings = yaml.safe_load(base.read_text())
    watcher = {"class_path": callback, "init_args": {"monitor": "train/los"}}
    settings["trainer"]["callbacks"] = [watcher] if callback else []
    base.write_text(yaml.safe_dump(settings))
    ended = dmax(
        f"fit --config {base}", *([] if callback else ["--checkpoint.monitor", "train/los", "--checkpoint.mode", "min"])
    )
    assert ended.status == 2
    refusal = ended.err.splitlines()[-1]
    assert refusal.startswith("error: trainer" if callback else "error: checkpoint.monitor: ")
    assert "train/los" in refusal
    assert "train/loss" in refusal


def test_a_task_without_prompts_of_the_split_is_refused(dmax, base, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"prompt": "3 ?", "answer": "3"}\n')
    settings = yaml.safe_load(base.read_text())
    data = settings["data"].get("init_args", settings["data"])
    data |= {"task": "jsonl", "task_options": {"test": "q.jsonl"}, "num_val": None}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    assert dmax("validate --config c.yaml").refusal == "data.task: expected val prompts, found none"
