"""From LLaDA-2.0-mini to DMax: the commands of the recipes, run unchanged on a tiny checkpoint of the same names."""

import json
import re
import shlex
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from dmaxlit.cli import main
from dmaxlit.training.lr_schedules import WarmupCosine
from tests.backbone.formats.llada2_published import CONFIG, make_tensors, read_published, write_published

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "llada2_mini_oput.yaml"
ON_CPU = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.strategy", "auto"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
QUIET += ["--trainer.log_every_n_steps", "1"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")


def commands():
    """Return the commands at the top of the recipe, as lists of arguments."""
    head = "\n".join(line[1:] for line in RECIPE.read_text().splitlines() if line.startswith("#"))
    lines = re.findall(r"python -m dmaxlit ((?:[^\n\\]|\\\n)+)", head)
    return {args[0]: args for args in (shlex.split(line.replace("\\\n", " ")) for line in lines)}


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    """Replace the hub by one with a single model, which serves only files that match the requested patterns."""
    source = write_published(tmp_path_factory.mktemp("hub") / "LLaDA2.0-mini")
    folders = []

    def snapshot_download(name, allow_patterns, ignore_patterns=None, revision=None):
        assert name == "inclusionAI/LLaDA2.0-mini"
        if revision is None:
            folders.append(tmp_path_factory.mktemp("cache"))
        folder = folders[-1]
        for path in source.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, folder)
        return str(folder)

    monkeypatch.setattr("dmaxlit.backbone.formats.hub.snapshot_download", snapshot_download)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    return folders


@pytest.fixture
def questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    rows = [{"question": f"What is {i} + {i}?", "answer": f"It is #### {2 * i}"} for i in range(6)]
    for name in ("questions.jsonl", "gsm8k_test.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def shortened(args, **values):
    """Return the arguments with other values for some options."""
    out = list(args)
    for name, value in values.items():
        out[out.index(f"--{name}") + 1] = str(value)
    return out


@pytest.mark.slow
def test_the_four_commands_from_llada_to_dmax(hub, questions, capsys):
    lines = commands()
    assert list(lines) == ["distill", "fit", "generate", "convert"]
    # A model with random weights never finishes an answer.
    main([*shortened(lines["distill"], max_new_tokens=40), "--keep", "all", "--device", "cpu"])
    assert len(Path("runs/llada2_mini_oput/corpus.jsonl").read_text().splitlines()) == 6
    assert not list(hub[0].glob("*.py"))

    main([*lines["fit"], *ON_CPU, *QUIET, "--trainer.accumulate_grad_batches", "2", "--model.optimizer.lr", "0.01"])
    saved = torch.load("runs/llada2_mini_oput/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 6  # 2 epochs of 6 rows, 2 rows a step
    assert saved["lr_schedulers"][0]["total_steps"] == 6

    capsys.readouterr()
    main([*shortened(lines["generate"], max_new_tokens=40, num_prompts=3), "--device", "cpu"])
    assert "3 prompts, " in capsys.readouterr().out

    main(lines["convert"])
    tensors, _ = read_published(Path("models/DMax-Mini"))
    before = make_tensors()
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {name: t.dtype for name, t in before.items()}
    assert json.loads(Path("models/DMax-Mini/config.json").read_text()) == CONFIG
    changed = {name for name, tensor in before.items() if not torch.equal(tensors[name], tensor)}
    assert {"model.layers.1.attention.query_key_value.weight", "model.layers.2.mlp.gate.weight"} <= changed
    assert {path.name for path in Path("models/DMax-Mini").glob("*.py")} == {
        "modeling_llada2_moe.py",
        "configuration_llada2_moe.py",
    }
    assert [path.name for path in Path("models").iterdir()] == ["DMax-Mini"]

    main(["generate", "--model", "models/DMax-Mini", "--prompt", "2 + 2?", "--max_new_tokens", "40"])


def test_a_lightning_checkpoint_is_not_converted_over_anything(hub, questions, capsys):
    Path("taken").mkdir()
    with pytest.raises(SystemExit):
        main(["convert", "nothing.ckpt", "taken"])
    assert capsys.readouterr().err.startswith("error: output: expected a folder that does not exist yet")
    with pytest.raises(SystemExit):
        main(["convert", "nothing.ckpt", "free/model"])
    assert capsys.readouterr().err.startswith("error: model: expected a file, got 'nothing.ckpt'")
    assert not [path.name for path in Path().iterdir() if path.name.startswith((".dmaxlit", "free"))]


@pytest.mark.parametrize("name", ["llada2_mini_oput", "llada2_coder_oput"])
def test_the_settings_are_the_papers(hub, questions, name, capsys):
    import yaml

    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", f"configs/{name}.yaml", "--print_config"])
    assert not end.value.code
    settings = yaml.safe_load(capsys.readouterr().out)
    model, trainer = settings["model"], settings["trainer"]
    backbone = model["backbone"]["init_args"] if "init_args" in model["backbone"] else model["backbone"]
    assert (backbone["pretrained"], backbone["block_length"]) == ("inclusionAI/LLaDA2.0-mini", 32)
    assert backbone["gradient_checkpointing"] is True
    assert model["noise"]["init_args"]["level"] == 0.75
    optimizer = model["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["betas"], optimizer["weight_decay"]) == (2e-6, [0.9, 0.999], 0.01)
    assert model["lr_scheduler"]["class_path"].endswith(WarmupCosine.__name__)
    assert model["lr_scheduler"]["init_args"]["warmup"] == 0.03
    assert settings["data"]["init_args"]["max_length"] == 2048
    assert settings["data"]["init_args"]["eos_fill"] == 32
    assert settings["data"]["init_args"]["corpus"] == f"runs/{name}/corpus.jsonl"
    assert (trainer["max_epochs"], trainer["gradient_clip_val"]) == (2, 1.0)
    assert trainer["precision"] == "bf16-mixed"
    assert trainer["default_root_dir"] == f"runs/{name}"


def test_the_coder_recipe_runs(hub, questions):
    config = ["--config", "configs/llada2_coder_oput.yaml", "--data.corpus", "questions.jsonl"]
    main(["fit", *config, *ON_CPU, *QUIET, "--trainer.fast_dev_run", "true"])
    assert not Path("runs").exists()
