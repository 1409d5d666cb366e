import json
import sys

import pytest
import torch
import yaml

import dmaxlit
from tests.cli.conftest import start

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)

OWN_NOISE = '''
from dmaxlit.noise import OnPolicyNoise

class TwiceNoise(OnPolicyNoise):
    """OPUT with the last view repeated."""

    def views(self, clean, generator):
        dialogue = super().views(clean, generator)
        view = next(dialogue)
        while view is not None:
            answer = yield view
            last = view
            try:
                view = dialogue.send(answer)
            except StopIteration:
                view = None
        yield last
'''

OWN_DECODER = '''
from dmaxlit.decoding import ThresholdDecoder

class Bold(ThresholdDecoder):
    """Commits whatever is likelier than not bold."""

    def __init__(self, boldness: float = 0.5):
        super().__init__(threshold=1 - boldness)
'''

OWN_DATA = '''
from dmaxlit.data import SelfDistilledDataModule

class Twice(SelfDistilledDataModule):
    """With an option more."""

    def __init__(self, times: int = 2, **options):
        super().__init__(**options)
        self.times = times
'''


def printed(dmax, *args):
    shown = dmax(["fit", *map(str, args), "--print_config"])
    assert shown.status == 0, shown.err
    return shown.out


def noise_of(text):
    return yaml.safe_load(text)["model"]["noise"]


# ---- strategies by name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["masked", "MaskedNoise", "dmaxlit.noise.MaskedNoise"])
def test_a_strategy_is_given_by_name_with_its_options_as_flags(dmax, base, name):
    noise = noise_of(printed(dmax, "--config", base, "--model.noise", name, "--model.noise.per", "block"))
    assert noise["class_path"].endswith("MaskedNoise")
    assert noise["init_args"]["per"] == "block"


@pytest.mark.parametrize(
    "written",
    ["masked", "{class_path: masked}", "{class_path: MaskedNoise}", "{class_path: dmaxlit.noise.MaskedNoise}"],
)
def test_a_strategy_is_given_by_name_in_a_file(dmax, base, tmp_path, written):
    (tmp_path / "more.yaml").write_text(f"model: {{noise: {written}}}\n")
    noise = noise_of(printed(dmax, "--config", base, "--config", tmp_path / "more.yaml"))
    assert noise["class_path"].endswith("MaskedNoise")


def test_an_option_alone_changes_the_configured_strategy(dmax, base):
    noise = noise_of(printed(dmax, "--config", base, "--model.noise.temperature", "0.5"))
    assert noise["class_path"].endswith("OnPolicyNoise")
    assert (noise["init_args"]["level"], noise["init_args"]["temperature"]) == (0.5, 0.5)


def test_a_class_that_is_named_takes_nothing_over_from_the_one_before(dmax, base, tiny):
    alone = printed(
        dmax, "--model.backbone.pretrained", tiny, "--model.noise", "masked", "--model.optimizer", "MuonAdamW"
    )
    assert noise_of(alone)["init_args"]["level"] == [0.0, 1.0]
    optimizer = yaml.safe_load(alone)["model"]["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["betas"]) == (0.02, 0.0, [0.9, 0.95])
    assert noise_of(printed(dmax, "--config", base, "--model.noise", "masked"))["init_args"]["level"] == [0.0, 1.0]


def test_the_default_strategy_takes_options_too(dmax, tiny):
    noise = noise_of(printed(dmax, "--model.backbone.pretrained", tiny, "--model.noise.level", "0.25"))
    assert noise["init_args"]["level"] == 0.25


def test_a_level_may_be_a_range_or_a_distribution(dmax, base):
    assert noise_of(printed(dmax, "--config", base, "--model.noise.level", "[0, 1]"))["init_args"]["level"] == [
        0.0,
        1.0,
    ]
    flags = ["--model.noise.level", "UniformLevel", "--model.noise.level.low", "0.25"]
    level = noise_of(printed(dmax, "--config", base, *flags))["init_args"]["level"]
    assert level["class_path"].endswith("UniformLevel")
    assert level["init_args"] == {"low": 0.25, "high": 1.0}


def test_help_on_a_strategy_goes_by_registered_name(dmax):
    assert "Of the rollout, above 0." in " ".join(dmax("fit --model.noise.help on_policy").out.split())


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--model.noise", "masked", "--model.noise.level", "[0.0, 1.0]", "--model.noise.schedule", "CosineSchedule"],
        [
            "--model.optimizer",
            "MuonAdamW",
            "--model.lr_scheduler",
            "CosineAnnealingLR",
            "--model.lr_scheduler.T_max",
            "4",
        ],
        [
            "--trainer.callbacks",
            "SPDValidation",
            "--trainer.callbacks.decoders",
            "[{name: spd, options: {tau_dec: 0.3}}]",
        ],
        ["--data.task.difficulty", "easy"],
    ],
)
def test_a_printed_configuration_prints_itself(dmax, base, tmp_path, flags):
    once = printed(dmax, "--config", base, *flags)
    (tmp_path / "once.yaml").write_text(once)
    assert printed(dmax, "--config", tmp_path / "once.yaml") == once


# ---- refusals -------------------------------------------------------------------------------------------------------


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
        ("--data.task chan", "unknown task 'chan'; known: chain, jsonl, reasoning_gym"),
        ("--data.task.length 4", "unknown option 'length' of task 'chain'; known: difficulty, operations, seed"),
        ("--data.batch_size 0", "batch_size: expected at least 1, got 0"),
        (
            "--model.backbone.block_length 999",
            "block_length: expected at most the 128 positions of the model or max_length, got 999",
        ),
        ("--model.backbone.pretrained builtin:no", "pretrained: unknown built-in model 'no'"),
        ("--ckpt_path no.ckpt", "checkpoint: expected a file, got 'no.ckpt' (no such file)"),
        ("--config no.yaml", "config: File does not exist:"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, base, flags, refusal):
    assert dmax(f"fit --config {base} {flags}").refusal.startswith(refusal)


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--trainer.accelerator gpus", "trainer: You selected an invalid accelerator name"),
        ("--model.optimizer AdamW --model.optimizer.lr -1", "optimizer: Invalid learning rate: -1.0"),
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
        ("model: [", "bad.yaml: while parsing"),
        ("hello", "bad.yaml: Unexpected config: hello"),
        (
            "model: {noise: nope}",
            "bad.yaml: unknown noise strategy 'nope'; known: complementary",
        ),
        ("model: {nois: masked}", "unknown setting 'model.nois' (did you mean model.noise?)"),
        (
            "trainer: {callbacks: [{class_path: Nothing}]}",
            "bad.yaml: trainer.callbacks: expected the name or import path",
        ),
        ("config: gone.yaml", "bad.yaml: config: expected the file it starts from, got 'gone.yaml'"),
    ],
)
def test_a_bad_file_is_refused_by_its_name(dmax, base, tmp_path, content, refusal):
    (tmp_path / "bad.yaml").write_text(content)
    assert dmax(f"fit --config {base} --config bad.yaml").refusal.startswith(refusal)


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


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_is_repeated_continued_tested_and_exported(dmax, base, tmp_path, tiny):
    last = tmp_path / "runs" / "checkpoints" / "last.ckpt"
    for version, flags in enumerate(["", "--checkpoint.resume false"]):
        ended = dmax(f"fit --config {base} {flags}")
        assert ended.status == 0, ended.err
        run = tmp_path / "runs" / "lightning_logs" / f"version_{version}"
        assert (run / "config.yaml").is_file()
        assert list(run.glob("events.out.tfevents*"))
        kept = sorted(path.name for path in last.parent.iterdir())
        assert kept == ["epoch=0-step=2.ckpt", "finished.json", "last.ckpt"]
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


def test_predict_refuses_a_folder_as_its_output(dmax, base, tmp_path):
    ended = dmax(f"predict --config {base} --output", tmp_path)
    assert ended.err.splitlines()[-1] == f"error: output: expected a file to write, got the folder '{tmp_path}'"


def test_predict_refuses_an_unknown_decoder(dmax, base):
    ended = dmax(f"predict --config {base} --decoder nope")
    assert ended.err.splitlines()[-1].startswith(
        "error: unknown decoder 'nope'; known: credit, edit, entropy_bounded, "
    )


# ---- as a process ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_strategy_in_the_current_folder_is_found_by_the_console_script_too(base, tmp_path):
    (tmp_path / "my_noise.py").write_text(OWN_NOISE)
    flags = ["--model.noise", "my_noise.TwiceNoise", "--model.noise.level", "0.75", "--trainer.fast_dev_run", "true"]
    # Like a console script, -P does not put the current folder on the path.
    script = [sys.executable, "-P", "-c", "from dmaxlit.cli import main; main()"]
    command = [*script, "fit", "--config", str(base), *flags]
    ended = start(command, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_refusal_is_one_line_and_status_2_of_the_process(base, tmp_path):
    command = [sys.executable, "-m", "dmaxlit", "fit", "--config", str(base), "--model.noise", "no_such_noise"]
    ended = start(command, tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: unknown noise strategy 'no_such_noise'; known: complementary, confidence, editing, masked, on_policy, "
        "rollout_k, soft_on_policy, uniform\n"
    )
    assert ended.stdout == ""


def test_a_decoder_of_one_s_own_is_found_too(dmax, base, tmp_path, monkeypatch):
    (tmp_path / "my_decoder.py").write_text(OWN_DECODER)
    monkeypatch.syspath_prepend(tmp_path)
    ended = dmax(f"predict --config {base} --decoder my_decoder.Bold --decoder.boldness 1.0")
    assert ended.status == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert {row["num_forwards"] for row in rows} == {
        3
    }  # one a block: a prompt of five tokens, a budget of 32, blocks of 16


@pytest.mark.parametrize("in_file", [True, False])
def test_a_data_module_of_one_s_own_is_found_too(dmax, base, tmp_path, monkeypatch, in_file):
    (tmp_path / "my_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "more.yaml").write_text("data: {class_path: my_data.Twice, init_args: {times: 3}}\n")
    chosen = ["--config", "more.yaml"] if in_file else ["--data", "my_data.Twice", "--data.times", "3"]
    data = yaml.safe_load(printed(dmax, "--config", base, *chosen))["data"]
    assert data["class_path"] == "my_data.Twice"
    assert (data["init_args"]["times"], data["init_args"]["batch_size"]) == (3, 4)
    assert dmax(["fit", "--config", str(base), *chosen, "--trainer.fast_dev_run", "true"]).status == 0


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
