"""Weights & Biases itself, offline: what a run leaves for ``wandb sync``."""

import json
import time

import pytest
from lightning.pytorch.loggers import WandbLogger

from dmaxlit.callbacks import ComparisonReport, DecoderSpec, HyperparameterLog, SPDValidation
from tests.callbacks.fakes import LIGHTNING_WARNINGS, FakeModule, make_data, make_trainer

wandb = pytest.importorskip("wandb")
Record = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record

pytestmark = LIGHTNING_WARNINGS

SPECS = [DecoderSpec("spd", {"tau_dec": 0.0}, "spd 0"), DecoderSpec("threshold", {"threshold": 0.5})]


BLOCK, HEADER, WHOLE, LAST = 2**15, 7, 1, 4


def records(folder):
    """Return the records of the only run in a folder, from a file in the format of LevelDB's logs."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, position, record = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(data):
        if (left := BLOCK - position % BLOCK) < HEADER:
            position += left
            continue
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        record += data[position + HEADER : position + HEADER + size]
        position += HEADER + size
        if kind in (WHOLE, LAST):
            yield Record.FromString(record)
            record = b""


def values(items):
    """Return the values of a record by key; of a media file, its description by nested keys."""
    found = {}
    for item in items:
        *outer, name = item.nested_key or [item.key]
        inner = found
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[name] = json.loads(item.value_json)
    return found


def complete(folder):
    """Return all records, once W&B's own process has written the last."""
    for _ in range(200):
        found = list(records(folder))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.05)
    raise TimeoutError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with its history, a dictionary of JSON values by tag for each call, and its config."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("HOME", str(folder))
        patch.setenv("WANDB_DATA_DIR", str(folder))
        logger = WandbLogger(save_dir=folder, project="dmaxlit")
        validation = SPDValidation(SPECS, curve=[0.5], num_samples=2)
        callbacks = [validation, ComparisonReport(str(folder / "out"), SPECS, baseline=False), HyperparameterLog()]
        trainer = make_trainer(folder, callbacks, logger=logger, max_epochs=1)
        trainer.fit(FakeModule(), datamodule=make_data(num_train=8, num_val=2, num_test=2))
        wandb.finish()
    found = complete(folder)
    history = [values(record.history.item) for record in found if record.HasField("history")]
    config = {}
    for record in found:
        config |= values(record.config.update) | values(record.run.config.update)
    return folder, history, config


def value_of(history, tag):
    (value,) = [step[tag] for step in history if tag in step]
    return value


def test_the_settings_are_its_config(run):
    _, _, config = run
    assert config["trainer.max_epochs"] == 1


def test_figures_have_the_step_of_training(run):
    _, history, _ = run
    (step,) = [entry["trainer/global_step"] for entry in history if "decode/spd 0/accuracy" in entry]
    assert step == 0  # as Lightning counts them
    assert 0 <= value_of(history, "decode/spd 0/accuracy") <= 1
    assert value_of(history, "comparison/spd 0/tpf") > 1


@pytest.mark.parametrize(
    ("tag", "columns", "rows"),
    [
        ("decode/spd 0/samples", ["decoder", "verdict", "prompt", "answer"], 2),
        ("decode/curve", ["label", "threshold", "title", "decoder"], 2),
        ("decode/comparison", ["model", "label", "decoder", "options"], 2),
    ],
)
def test_samples_curves_and_the_comparison_are_tables(run, tag, columns, rows):
    folder, history, _ = run
    entry = value_of(history, tag)
    assert entry["_type"] == "table-file"
    (path,) = folder.glob(f"wandb/offline-run-*/files/{entry['path']}")
    table = json.loads(path.read_text())
    assert table["columns"][: len(columns)] == columns
    assert len(table["data"]) == rows


def test_the_curve_is_a_picture_too(run):
    folder, history, _ = run
    entry = value_of(history, "decode/curve_picture")  # a name of W&B holds one kind of values
    assert entry["_type"] == "images/separated"
    for name in entry["filenames"]:
        (path,) = folder.glob(f"wandb/offline-run-*/files/{name}")
        assert path.read_bytes().startswith(b"\x89PNG")
