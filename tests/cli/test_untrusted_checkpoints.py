"""What a checkpoint from elsewhere must not do to the machine of those who load it."""

import json
import shutil
import sys

import pytest
import torch

import dmaxlit
from dmaxlit.errors import DMaxWarning
from dmaxlit.evaluation.evaluate import default_budget
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


@pytest.fixture
def naming(tmp_path, tiny, trace, monkeypatch):  # noqa: F811
    """Return a function that makes a checkpoint, in a form, whose metadata name a task; and plant a module."""
    monkeypatch.syspath_prepend(tmp_path)
    code = f"open({str(trace)!r}, 'w').close()\nfrom dmaxlit.tasks import ChainTask\nclass Task(ChainTask): pass\n"
    (tmp_path / "task_of_theirs.py").write_text(code)

    def make(form, name, options):
        folder = tmp_path / "model"
        shutil.copytree(tiny, folder)
        metadata = json.loads((folder / "dmaxlit.json").read_text()) | {"task": {"name": name, "options": options}}
        (folder / "dmaxlit.json").write_text(json.dumps(metadata))
        if form == "folder":
            return folder
        module = dmaxlit.load(folder)
        content: dict[str, object] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(content)
        torch.save(content, tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    monkeypatch.delitem(sys.modules, "task_of_theirs", raising=False)
    return make


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_checkpoint_imports_no_task(dmax, naming, trace, form):  # noqa: F811
    model = naming(form, "task_of_theirs.Task", {})
    with pytest.warns(DMaxWarning, match=r"max_new_tokens: 256 by default.* got 'task_of_theirs.Task'.*--task"):
        assert dmax(f"generate --model {model} --prompt 3 --output a.jsonl").status == 0
    refusal = dmax(f"distill --model {model} --output c.jsonl --num_prompts 3").refusal
    assert refusal.startswith("task: expected a registered one (asdiv, chain, ")
    assert "got 'task_of_theirs.Task'" in refusal
    assert not trace.exists()
    flags = "--task task_of_theirs.Task --num_prompts 3 --keep all --max_new_tokens 6"
    ended = dmax(f"distill --model {model} --output c.jsonl {flags}")  # what the user names is imported
    assert ended.status == 0, ended.err
    assert trace.exists()


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_checkpoint_opens_no_file(dmax, naming, tmp_path, monkeypatch, form):
    rows = [{"prompt": f"{i} +1 ?", "answer": "1"} for i in range(20)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = naming(form, "jsonl", {"train": "secret.jsonl", "test": "hub/data", "max_new_tokens": 7})
    monkeypatch.setattr("dmaxlit.tasks.jsonl.read_records", lambda path, *_: pytest.fail(f"{path} was read"))
    assert default_budget(dmaxlit.load(model)) == 7
    assert dmax(f"generate --model {model} --prompt 3").status == 0
    flags = "--num_prompts 3 --keep all --max_new_tokens 6"
    for more in ("", "--task.match exact", "--task.train mine.jsonl"):
        refusal = dmax(f"distill --model {model} --output c.jsonl {flags} {more}").refusal
        assert refusal.startswith("task: expected it by name (--task jsonl --task.OPTION ...)")
    curve = f"bench decoders --models [a={model}] --output b --num_examples 2"
    assert "error: task: expected it by name" in dmax(curve).err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    ended = dmax(f"distill --model {model} --output c.jsonl {flags} --task jsonl --task.train mine.jsonl")
    assert ended.status == 0, ended.err
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("options", [{"schedule": "decoder_of_theirs.Hasty"}, {"schedule": "os.system"}])
def test_a_folder_imports_no_decoder_by_an_option(dmax, tiny, tmp_path, trace, monkeypatch, options):  # noqa: F811
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "decoder_of_theirs.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    shutil.copytree(tiny, tmp_path / "model")
    path = tmp_path / "model" / "dmaxlit.json"
    decoding = {"decoder": "codila_verify", "options": options}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoding": decoding}))
    refusal = dmax("generate --model model --prompt 3").refusal
    assert refusal.startswith(f"schedule: expected a registered decoder, got {options['schedule']!r}; known: ")
    assert not trace.exists()


def test_the_task_of_a_run_is_the_users(tmp_path, tiny):
    module = dmaxlit.load(tiny)
    module.set_task("jsonl", {"path": "mine.jsonl"})  # as `fit` does with the task of its data
    assert module.task().path == "mine.jsonl"
    module.export(tmp_path / "out")
    assert dmaxlit.load(tmp_path / "out").task_options == {"path": "mine.jsonl"}
