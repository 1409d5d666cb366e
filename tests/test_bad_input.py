"""Input of users at random, from a fixed seed: it is used, or refused by a UserError of one line, and nothing else."""

import copy
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dmaxlit
from dmaxlit import UserError
from dmaxlit.backbone.formats.hub import BUILTIN_MODELS
from dmaxlit.backbone.formats.metadata import check_metadata
from dmaxlit.checkpoints.resumable import check_resumable
from dmaxlit.checkpoints.schema import check_checkpoint
from dmaxlit.data.corpus_reader import read_corpus
from dmaxlit.data.prompt_reader import read_prompts
from dmaxlit.tasks.records import BadRows

# What people and other programs write where something else is meant.
SCALARS = st.sampled_from(
    [None, True, False, 0, -1, 1, 3, 10**30, 0.5, -0.5, 1e-300, float("inf"), float("nan"), "", "x", "0", "null", "{"]
    + ["../x", "/dev/null", "a" * 300, "\u00e9\x1b[0m", "nan", "on_policy", "chain"]
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("a"), inner))
LINES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.builds(lambda value: json.dumps(value).encode(), VALUES),
        st.builds(lambda value: json.dumps({"prompt": value, "response": "b"}).encode(), VALUES | st.text(max_size=4)),
        st.builds(lambda value: json.dumps({"messages": [value, value]}).encode(), VALUES),
        st.just(b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\\ud800"}]}'),
        st.just(b"[" * 2000),
    ),
    max_size=4,
)


def random(examples):
    """Return the settings of a test: the same examples every time, and a folder shared by all of them."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


def attempt(use):
    """Use some input. Anything but a UserError of one line fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refusal = ""
        try:
            use()
        except UserError as error:
            refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 1500


def paths(settings, parents=()):
    """Return the key of every setting, nested ones too."""
    found = []
    for name, value in settings.items():
        found.append((*parents, name))
        if isinstance(value, dict):
            found += paths(value, (*parents, name))
    return found


def changed(settings, path, value):
    """Return a copy of some settings with another value at a path."""
    settings = node = copy.deepcopy(settings)
    for name in path[:-1]:
        node[name] = node = node[name] if isinstance(node.get(name), dict) else {}
    node[path[-1]] = value
    return settings


# ---- files of a model ------------------------------------------------------------------------------------------------

MODEL = BUILTIN_MODELS / "chain-base"
FILES = {name: json.loads((MODEL / name).read_text()) for name in ("config.json", "dmaxlit.json")}
FILES |= {name: json.loads((MODEL / name).read_text()) for name in ("tokenizer_config.json", "generation_config.json")}
# A model that is truly large is no mistake, but would fill the memory here.
SIZES = {"hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "head_dim"}
FIELDS = [(name, path) for name, content in FILES.items() for path in paths(content)]


@pytest.mark.slow
@random(60)
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_files_of_a_model(tmp_path, field, value):
    name, path = field
    if value == 10**30 and path[-1] in SIZES:
        return
    folder = tmp_path / "model"
    if not folder.exists():  # all examples share the folder
        shutil.copytree(MODEL, folder)
    for other, content in FILES.items():
        (folder / other).write_text(json.dumps(content if other != name else changed(content, path, value)))
    attempt(lambda: dmaxlit.load(folder).generate(["7 +1 ?"], max_new_tokens=4))


@random(200)
@given(value=VALUES, name=st.sampled_from(["block_length", "max_length", "task", "training", "base_model"]))
def test_metadata(value, name):
    attempt(lambda: check_metadata({name: value}, "pretrained: m"))
    attempt(lambda: check_metadata(value, "pretrained: m"))


CHECKPOINT = {
    "dmaxlit": {"config": '{"model_type": "qwen3"}', "metadata": "{}", "lora": None, "tokenizer": {"a.json": "{}"}},
    "state_dict": {"weight": torch.zeros(1)},
    **{"global_step": 2, "epoch": 0, "loops": {}, "optimizer_states": [], "lr_schedulers": [], "callbacks": {}},
    "dmaxlit_run": {"settings": "{}"},
}


@random(200)
@given(path=st.sampled_from(paths(CHECKPOINT)), value=VALUES)
def test_checkpoints(path, value):
    content = changed(CHECKPOINT, path, value)
    attempt(lambda: check_checkpoint(content, "a.ckpt"))
    attempt(lambda: check_resumable("a.ckpt", content))


# ---- rows ------------------------------------------------------------------------------------------------------------


@random(150)
@given(lines=LINES, suffix=st.sampled_from([".jsonl", ".json", ".txt"]), end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_rows_of_corpora_and_prompts(tmp_path, lines, suffix, end):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(end.join(lines))
    attempt(lambda: read_prompts(str(path)))
    if suffix != ".txt":
        attempt(lambda: list(read_corpus(str(path), "train", BadRows("error"))))
        attempt(lambda: list(read_corpus(str(path), "train", BadRows("skip"))))


# ---- configurations --------------------------------------------------------------------------------------------------


CONFIG = {
    "seed_everything": 0,
    "model": {
        "backbone": {"pretrained": "builtin:chain-base", "block_length": None, "dtype": "float32", "max_length": None},
        "noise": {"class_path": "on_policy", "init_args": {"level": 0.5, "rollout": "sample", "temperature": 1.0}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.99]}},
        "lr_scheduler": {"class_path": "WarmupCosine", "init_args": {"warmup": 0.1}},
        "clean_half": "cached",
        "lora": None,
    },
    "data": {
        "class_path": "SelfDistilledDataModule",
        "init_args": {"task": "chain", "num_train": 4, "batch_size": 2, "num_val": 1, "eos_fill": "block"},
    },
    "trainer": {
        **{"max_steps": 1, "accelerator": "cpu", "default_root_dir": "run", "log_every_n_steps": 1, "precision": None},
        **{"enable_progress_bar": False, "enable_model_summary": False, "accumulate_grad_batches": 1},
        **{"gradient_clip_val": None, "limit_train_batches": None, "val_check_interval": None, "logger": False},
    },
    "checkpoint": {"every_n_steps": None, "resume": True},
}
# These decide how long a run takes: a huge one is no mistake, nor is a trainer without any.
LENGTHS = {"max_steps", "num_train", "default_root_dir", "trainer"}


@pytest.mark.slow
@random(20)
@given(path=st.sampled_from([path for path in paths(CONFIG) if path[-1] not in LENGTHS]), value=VALUES)
def test_configurations(tmp_path, monkeypatch, capsys, path, value):
    from dmaxlit.cli import main

    monkeypatch.chdir(tmp_path)
    shutil.rmtree("run", ignore_errors=True)
    Path("c.yaml").write_text(yaml.safe_dump(changed(CONFIG, path, value)))
    capsys.readouterr()
    status = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main(["fit", "--config", "c.yaml"])
        except SystemExit as ended:
            status = ended.code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) in ((0, 0), (2, 1))
