"""``--safe``: a configuration from a stranger imports nothing of its own."""

import sys

import pytest
from jsonargparse import _common

from dmaxlit.noise import NOISE
from dmaxlit.registry import Registry

EVIL = "open('it_ran', 'w').close()\nclass Evil:\n    pass\n"


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module in the current folder that leaves a trace when imported; returns a function that looks for it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    yield (tmp_path / "it_ran").exists
    sys.modules.pop("evil", None)


@pytest.mark.parametrize(
    "content",
    [
        "model: {noise: evil.Evil}",
        "model: {noise: {class_path: evil.Evil}}",
        "model: {optimizer: {class_path: evil.Evil}}",
        "model: {optimizer: evil.Evil}",
        "model: {lr_scheduler: {class_path: evil.Evil}}",
        "model: {noise: {class_path: on_policy, init_args: {level: {class_path: evil.Evil}}}}",
        "trainer: {callbacks: [{class_path: evil.Evil}]}",
        "trainer: {callbacks: [{class_path: SPDValidation, init_args: {decoders: [{name: evil.Evil}]}}]}",
        "trainer: {logger: {class_path: evil.Evil}}",
        "trainer: {strategy: {class_path: evil.Evil}}",
        "data: {class_path: evil.Evil}",
        "data: {class_path: SelfDistilledDataModule, init_args: {task: evil.Evil}}",
    ],
)
def test_nothing_that_a_file_names_is_imported(dmax, base, tmp_path, evil, content):
    (tmp_path / "x.yaml").write_text(content)
    ended = dmax(f"fit --safe --config {base} --config x.yaml")
    assert ended.status == 2, ended.err
    assert "Traceback" not in ended.err
    assert not evil()


@pytest.mark.parametrize("command", ["generate --config x.yaml", "generate --config '{safe: true}'"])
def test_a_file_does_not_restrict_itself(dmax, tmp_path, command):
    (tmp_path / "x.yaml").write_text("safe: true")
    refusal = dmax(f"{command} --model gone --prompt 7").refusal
    assert "safe: expected on the command line (--safe), since a file is read by what it would" in refusal
    assert "safe" in dmax("fit --config x.yaml").refusal
    assert dmax("generate --safe --config x.yaml --model gone --prompt 7").refusal.startswith("model: ")


@pytest.mark.parametrize(
    "command",
    [
        "generate --model builtin:chain-base --prompt 7 --decoder evil.Evil",
        "distill --model builtin:chain-base --task evil.Evil --output o.jsonl",
    ],
)
def test_nor_what_an_argument_names(dmax, evil, command):
    ended = dmax(f"{command} --safe")
    assert "(import paths are not admitted)" in ended.refusal
    assert not evil()


@pytest.mark.parametrize("kind", ["", "--kind decoder"])
def test_nor_a_name_to_check(dmax, evil, kind):
    refusal = dmax(f"check evil.Evil --safe {kind}").refusal
    assert refusal == "evil.Evil: expected a registered name with --safe, got an import path"
    assert not evil()


def test_a_command_whose_arguments_are_not_ours_to_read_refuses_it(dmax):
    assert (
        dmax("lm_eval --safe --tasks x").refusal
        == "safe: expected no --safe with lm_eval, whose tasks are code, got --safe"
    )


OPTIONS = "{sandbox: rlimits, path: nowhere.jsonl}"


@pytest.mark.parametrize(
    ("command", "content", "flag"),
    [
        ("generate --model m", f"{{task: humaneval, task_options: {OPTIONS}}}", "--task.sandbox"),
        (
            "evaluate --model m --output o",
            f"tasks: '[{{name: humaneval, options: {OPTIONS}}}]'",
            "--task.humaneval.sandbox",
        ),
        (
            "fit --model builtin:chain-base",
            f"data: {{task: humaneval, task_options: {OPTIONS}}}",
            "--data.task.sandbox",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:sandbox. level 'rlimits'")
def test_only_the_command_line_makes_do_with_less_than_a_sandbox(dmax, tmp_path, command, content, flag):
    (tmp_path / "rlimits").write_text(content)
    command = f"{command} --config rlimits"
    refusal = dmax(f"{command} --safe").refusal
    assert refusal == "sandbox: expected rlimits on the command line (--task.sandbox rlimits), got it from a file"
    for args in (f"{flag} rlimits --safe", f"{flag}=rlimits --safe", ""):
        assert "sandbox: expected" not in dmax(f"{command} {args}").refusal


def test_nor_a_class_of_the_module(dmax, base, evil):
    ended = dmax(f"fit --safe --config {base} --model evil.Evil")
    assert ended.refusal == "model: 'evil.Evil' may not be imported by a configuration"
    assert not evil()


@pytest.mark.parametrize("path", ["os.system", "torch.load", "torch.hub.load", "builtins.eval", "subprocess.Popen"])
@pytest.mark.parametrize("setting", ["model.optimizer", "model.lr_scheduler"])
def test_functions_are_no_optimisers(dmax, base, path, setting):
    ended = dmax(f"fit --safe --config {base} --{setting} {path}")
    assert ended.status == 2
    assert "Traceback" not in ended.err


def test_functions_of_the_system_are_refused_without_it_too(dmax, base):
    ended = dmax(f"fit --config {base} --model.optimizer os.system")
    assert ended.status == 2
    assert "Traceback" not in ended.err


def test_classes_by_name_are_admitted(dmax, base):
    flags = "--model.optimizer SGD --model.optimizer.lr 0.1 --model.noise masked --trainer.logger CSVLogger"
    more = (
        "--trainer.logger.save_dir logs --trainer.callbacks LearningRateMonitor --model.lr_scheduler ReduceLROnPlateau"
    )
    ended = dmax(f"fit --safe --config {base} {flags} {more} --model.lr_scheduler.monitor train/loss --print_config")
    assert ended.status == 0, ended.err


def test_a_strategy_that_a_package_registers_is_admitted_and_nothing_else_of_it(dmax, base, tmp_path, monkeypatch):
    code = "from dmaxlit.noise import MaskedNoise\nclass Theirs(MaskedNoise): ...\nclass Other(MaskedNoise): ...\n"
    (tmp_path / "their_noise.py").write_text(code)
    package = tmp_path / "their_noise-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: their-noise\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[dmaxlit.noise]\ntheirs = their_noise:Theirs\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(NOISE, "_entry_points_loaded", False)
    ended = dmax(f"fit --safe --config {base} --model.noise theirs")
    assert ended.status == 0, ended.err
    assert "class_path: their_noise.Theirs" in (tmp_path / "runs/lightning_logs/version_0/config.yaml").read_text()
    assert dmax(f"fit --safe --config {base} --model.noise their_noise.Other --print_config").status == 2
    del NOISE._classes["theirs"]
    sys.modules.pop("their_noise", None)


@pytest.mark.parametrize(
    ("line", "status"),
    [("list --safe --kind noise", 0), ("generate --safe --help", 0), ("generate --safe --model gone --prompt 7", 2)],
)
@pytest.mark.parametrize(
    "flags", ["--model.noise evil.Evil", "--model.optimizer evil.Evil"], ids=["registry", "parser"]
)
def test_the_next_command_of_the_process_is_free_again(dmax, base, evil, line, status, flags):
    policy = dict(_common.parsing_settings)
    assert dmax(line).status == status
    assert Registry.admits_import_paths
    assert _common.parsing_settings == policy
    dmax(f"fit --config {base} {flags}")
    assert evil()
