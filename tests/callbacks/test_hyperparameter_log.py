import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import plugin_data_pb2

import dmaxlit
from dmaxlit.callbacks import ComparisonReport, DecoderSpec, HyperparameterLog, SPDValidation
from tests.callbacks.fakes import LIGHTNING_WARNINGS, FakeModule, events, make_data, make_trainer

pytestmark = LIGHTNING_WARNINGS

SPECS = [DecoderSpec("spd", {"tau_dec": 0.5})]


class OwnFigure(L.Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("own/figure", 1.0)


def fit(folder, callbacks, **options):
    logger = TensorBoardLogger(folder, name=None, version="")
    trainer = make_trainer(folder, [HyperparameterLog(), *callbacks], logger=logger, **{"max_epochs": 2, **options})
    trainer.fit(FakeModule(), datamodule=make_data(num_train=8, num_val=2, num_test=2))
    return trainer


def declared(folder):
    """Return the settings and the tags under HPARAMS, as TensorBoard reads them."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    content = multiplexer.PluginRunToTagToContent("hparams")["."]
    data = {tag: plugin_data_pb2.HParamsPluginData.FromString(value) for tag, value in content.items()}
    experiment = data["_hparams_/experiment"].experiment
    settings = dict(data["_hparams_/session_start_info"].session_start_info.hparams)
    return settings, {info.name.tag for info in experiment.metric_infos}


def test_tensorboard_has_settings_beside_the_figures_of_validation(tmp_path):
    fit(tmp_path, [SPDValidation(SPECS, curve=None), OwnFigure()])
    settings, tags = declared(tmp_path)
    assert settings["trainer.max_epochs"].number_value == 2
    assert settings["trainer.precision"].string_value == "32-true"
    assert {"train/loss", "decode/spd/accuracy", "decode/spd/tpf", "own/figure"} <= tags
    assert not [tag for tag in tags if tag.startswith("train/") and tag != "train/loss"]
    log = events(tmp_path)
    assert tags <= set(log.Tags()["scalars"])  # else a column would stay empty
    assert [event.step for event in log.Scalars("decode/spd/accuracy")] == [0, 1]  # no point was added


def test_figures_of_the_comparison_are_among_them_wherever_it_stands(tmp_path):
    fit(tmp_path, [ComparisonReport(str(tmp_path / "out"), SPECS, baseline=False)])
    _, tags = declared(tmp_path)
    assert {"comparison/spd tau_dec=0.5/accuracy", "comparison/spd tau_dec=0.5/tpf"} <= tags
    assert tags <= set(events(tmp_path).Tags()["scalars"])


def test_without_validation_there_is_the_loss(tmp_path):
    fit(tmp_path, [], limit_val_batches=0, max_epochs=1)
    assert declared(tmp_path)[1] == {"train/loss"}


@pytest.mark.parametrize("options", [{"logger": False}, {"fast_dev_run": True}])
def test_without_a_logger_and_in_a_dry_run_nothing_is_written(tmp_path, options):
    trainer = make_trainer(tmp_path, [HyperparameterLog()], **options)
    trainer.fit(FakeModule(), datamodule=make_data(num_train=8, num_val=2))
    assert not list(tmp_path.iterdir())


def test_a_csv_log_has_the_settings_in_a_file(tmp_path):
    logger = CSVLogger(tmp_path, name=None, version="")
    trainer = make_trainer(tmp_path, [HyperparameterLog()], logger=logger, max_epochs=1)
    trainer.fit(FakeModule(), datamodule=make_data(num_train=8, num_val=0))
    assert "trainer.max_epochs: 1" in (tmp_path / "hparams.yaml").read_text()


def test_settings_of_a_program_are_those_that_its_module_saves(tmp_path):
    module = FakeModule()
    module.save_hyperparameters({"level": 0.5}, logger=False)  # else Lightning declares them, without figures
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    trainer = make_trainer(tmp_path, [HyperparameterLog()], logger=logger, max_epochs=1, limit_val_batches=0)
    trainer.fit(module, datamodule=make_data(num_train=8, num_val=0))
    assert declared(tmp_path)[0]["model.level"].number_value == 0.5
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert dmaxlit.load(tmp_path / "run.ckpt").weights_step() == 1
