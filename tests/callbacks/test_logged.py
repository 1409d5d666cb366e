import csv

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from matplotlib.figure import Figure

from dmaxlit.callbacks import ComparisonReport, DecoderSpec, HyperparameterLog, SPDValidation
from dmaxlit.callbacks._logged import log_figure, log_table
from dmaxlit.errors import DMaxWarning
from tests.callbacks.fakes import LIGHTNING_WARNINGS, FakeModule, make_data, make_trainer

pytestmark = LIGHTNING_WARNINGS

SPECS = [DecoderSpec("spd", {"tau_dec": 0.0}, "spd 0")]


class RecordingWandb(WandbLogger):
    """Lightning's interface of W&B, without a run: it records what it would send."""

    def __init__(self):
        self.sent, self._prefix = [], ""

    name = version = "offline"
    save_dir = experiment = None

    def log_metrics(self, metrics, step=None):
        self.sent.append(("metrics", sorted(metrics), step))

    def log_hyperparams(self, params):
        self.sent.append(("settings", params))

    def log_graph(self, *args, **kwargs):
        pass

    def finalize(self, status):
        pass

    def after_save_checkpoint(self, callback):
        pass

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.sent.append((key, columns, data, step))

    def log_image(self, key, images, step=None, **kwargs):
        self.sent.append((key, [type(image) for image in images], step))


def test_every_logger_gets_curves_tables_and_samples(tmp_path):
    wandb, csv_log = RecordingWandb(), CSVLogger(tmp_path / "csv", name=None, version="")
    report = ComparisonReport(str(tmp_path / "out"), SPECS)
    callbacks = [SPDValidation(SPECS, curve=[0.5], num_samples=2), report, HyperparameterLog()]
    trainer = make_trainer(tmp_path, callbacks, logger=[wandb, csv_log], max_epochs=1)
    trainer.fit(FakeModule(), datamodule=make_data())
    sent = {entry[0]: entry for entry in wandb.sent if entry[0] != "metrics"}
    assert ("decode/curve_picture", [Figure], 2) in wandb.sent
    _, columns, data, step = sent["decode/spd 0/samples"]
    assert (columns[:4], len(data), step) == (["decoder", "verdict", "prompt", "answer"], 2, 2)
    assert [row[:2] for row in sent["decode/comparison"][2]] == [["base", "spd 0"], ["trained", "spd 0"]]
    assert sent["settings"][1]["trainer.max_epochs"] == 1
    assert ("metrics", ["comparison/spd 0/accuracy", "comparison/spd 0/tpf"], 2) in wandb.sent
    assert "trainer.max_epochs: 1" in (tmp_path / "csv/hparams.yaml").read_text()
    files = sorted(str(path.relative_to(tmp_path / "csv")) for path in (tmp_path / "csv/decode").rglob("*.*"))
    assert [name for name in files if "spd" not in name] == [
        "decode/comparison/step_000002.csv",
        "decode/comparison/step_000002.md",
        "decode/curve/step_000002.csv",
        "decode/curve/step_000002.md",
        "decode/curve/step_000002.png",
        "decode/decoders/step_000000.csv",
        "decode/decoders/step_000000.md",
    ]
    samples = next((tmp_path / "csv").rglob("spd*/samples/*.csv"))
    with samples.open(newline="") as file:
        assert [row["decoder"] for row in csv.DictReader(file)] == ["spd tau_dec=0.0"] * 2


def test_labels_cannot_leave_the_folder_of_the_log_and_a_full_disk_is_a_warning(tmp_path):
    logger = CSVLogger(tmp_path / "csv", name=None, version="")
    trainer = make_trainer(tmp_path, [], logger=logger)
    log_table(trainer, "decode/../../../out/samples", [{"a": 1}], "text")
    assert [path.name for path in tmp_path.iterdir()] == ["csv"]
    (tmp_path / "csv" / "decode" / "figure" / "step_000000.png").mkdir(parents=True)
    with pytest.warns(DMaxWarning, match=r"step_000000.png' cannot be written \(Is a directory\)"):
        log_figure(trainer, "decode/figure", Figure())
