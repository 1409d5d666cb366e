"""The real command line, in process, in an empty folder, with a model small enough to train in a blink."""

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

import dmaxlit
from dmaxlit.cli import main
from tests.conftest import make_denoiser

TASK = {"operations": 3}
CHECKPOINT = {"class_path": "ModelCheckpoint", "init_args": {"enable_version_counter": False}}
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "log_every_n_steps": 1}
SHORT = "--checkpoint.every_n_steps 1 --trainer.limit_val_batches 0"


def data_of(corpus, **more):
    """Return the settings of the data of a short run."""
    return {
        "task": "chain",
        "task_options": TASK,
        "corpus": str(corpus),
        "batch_size": 2,
        "num_val": 2,
        "num_test": 2,
    } | more


def printed(dmax, *args):
    """Return the output of ``fit --print_config``."""
    outcome = dmax(["fit", *map(str, args), "--print_config"])
    assert outcome.status == 0, outcome.err
    return outcome.out


@dataclass
class Outcome:
    status: int
    out: str
    err: str

    @property
    def refusal(self):
        """The only line on stderr of a command that was refused."""
        assert self.status == 2
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


@pytest.fixture(autouse=True)
def _lightning_uses_what_jsonargparse_has_renamed(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


@pytest.fixture
def dmax(capsys, monkeypatch, tmp_path):
    """Run a command line, a text or a list."""
    monkeypatch.chdir(tmp_path)

    def run(line, *more):
        args = [*(shlex.split(line) if isinstance(line, str) else line), *map(str, more)]
        capsys.readouterr()
        status = 0
        try:
            main(args)
        except SystemExit as end:
            status = end.code or 0
        return Outcome(status, *capsys.readouterr())

    return run


def start(command, folder):
    """Run a process in a folder, with the package that is being tested."""
    path = os.pathsep.join([str(Path(dmaxlit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Export a tiny untrained model of the chain task; return its folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    module = dmaxlit.DMaxModule(make_denoiser(block_length=16, sharpen=3.0))
    module.set_task("chain", TASK)
    module.export(folder)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Write a corpus of eight worked answers."""
    path = tmp_path_factory.mktemp("data") / "corpus.jsonl"
    rows = [
        {"prompt": example.prompt, "response": example.response}
        for example in dmaxlit.task("chain", **TASK).examples("train", 8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def short_run(tiny, corpus):
    """Return the settings of a short run: two steps on the tiny model."""
    return {
        "model": {
            "backbone": {"pretrained": str(tiny)},
            "noise": {"class_path": "on_policy", "init_args": {"level": 0.5}},
        },
        "data": data_of(corpus, batch_size=4, num_test=3),
        "trainer": {**QUIET, "max_steps": 2, "default_root_dir": "runs", "callbacks": [CHECKPOINT]},
    }


@pytest.fixture
def base(tmp_path, short_run):
    """Write the configuration of a short run."""
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(short_run))
    return path


@pytest.fixture(scope="session")
def shipped_configs():
    return Path(__file__).parents[2] / "configs"


def step_of(path):
    """Return the step of a checkpoint."""
    return torch.load(path, weights_only=True)["global_step"]


@pytest.fixture
def folder(tmp_path):
    """Return the folder of the checkpoints of a run of ``base``."""
    return tmp_path / "runs" / "checkpoints"


@pytest.fixture(scope="session")
def short_run_made(tmp_path_factory, short_run):
    """Make the short run; return the folder that holds ``runs``."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "base.yaml").write_text(yaml.safe_dump(short_run))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        main(["fit", "--config", "base.yaml", *shlex.split(SHORT)])
    return folder


@pytest.fixture
def begun(base, short_run_made, short_run, tmp_path):
    """A copy of the short run, which was to last two steps and is now to last four."""
    shutil.copytree(short_run_made / "runs", tmp_path / "runs")
    base.write_text(yaml.safe_dump(short_run | {"trainer": short_run["trainer"] | {"max_steps": 4}}))
    return base
