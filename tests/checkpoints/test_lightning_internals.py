"""One test for each of Lightning's internals that dmaxlit uses; a failure names what a release has changed."""

import copy
import signal
from inspect import getmodule, getsource, signature
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, RichProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner.tuning import Tuner
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from dmaxlit import DMaxModule
from dmaxlit.callbacks import RunCheckpoint, RunProgressBar
from dmaxlit.checkpoints import lightning_internals as internals
from dmaxlit.cli.plan import _PlanCLI
from dmaxlit.cli.preview import _PreviewCLI
from dmaxlit.cli.training import DMaxCLI
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.training.fsdp import FSDP2Strategy
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


def has(owner, name):
    """Fail with the attribute's name if it is gone."""
    assert hasattr(owner, name), f"Lightning {L.__version__}: {type(owner).__name__} has no attribute {name} any more"
    return getattr(owner, name)


class Watch(L.Callback):
    """Notes, when a batch ends, what the internals say."""

    def __init__(self):
        self.steps, self.metrics, self.restarting, self.loops = [], [], [], None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.restarting.append(trainer.fit_loop._restarting)

    def on_train_batch_end(self, trainer, *args):
        self.steps.append(internals.log_step(trainer))
        self.metrics.append(dict(internals.step_metrics(trainer)))
        self.loops = trainer._checkpoint_connector.dump_checkpoint()["loops"]


@pytest.fixture(scope="module")
def run():
    """(trainer, watch) of three steps."""
    watch = Watch()
    trainer = L.Trainer(**{**QUIET, "max_steps": 3, "callbacks": [watch]})
    trainer.fit(DMaxModule(make_denoiser()), loader())
    return trainer, watch


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ([], None),
        ([SLURMEnvironment()], signal.SIGUSR1),
        ([SLURMEnvironment(requeue_signal=signal.SIGHUP)], signal.SIGHUP),
        ([SLURMEnvironment(auto_requeue=False)], None),
    ],
)
def test_the_cluster_environment_says_which_signal_requeues(plugins, expected):
    trainer = L.Trainer(**QUIET, plugins=plugins)
    has(has(trainer, "_accelerator_connector"), "cluster_environment")
    assert internals.requeue_signal(trainer) == expected


def test_batches_that_stepped_is_the_step_that_is_logged(run):
    trainer, watch = run
    has(trainer.fit_loop.epoch_loop, "_batches_that_stepped")
    assert watch.steps == [0, 1, 2], "_batches_that_stepped no longer counts after the hook that writes checkpoints"


def test_the_logger_connector_holds_the_metrics_of_the_step(run):
    trainer, watch = run
    has(type(has(trainer, "_logger_connector")), "metrics")
    assert all("train/loss" in metrics for metrics in watch.metrics), "metrics['log'] lacks what the module has logged"


def test_a_fit_loop_says_that_it_is_restarting_and_can_be_told_that_it_is_not(run):
    trainer, watch = run
    assert has(trainer.fit_loop, "_restarting") is False
    assert watch.restarting == [False] * 3
    trainer.fit_loop._restarting = True
    internals.end_restart(trainer)
    assert trainer.fit_loop._restarting is False


def test_a_checkpoint_counts_batches_where_they_are_edited(run):
    progress = run[1].loops["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        assert (counts["processed"], counts["completed"]) == (3, 2), "epoch_loop.batch_progress counts otherwise"
    internals.complete_batch(run[1].loops)
    assert progress["total"]["completed"] == progress["current"]["completed"] == 3


@pytest.mark.parametrize(
    ("before", "after", "processed", "expected"),
    [
        (1, 3, (2, 6), (6, 18)),
        (4, 2, (8, 20), (4, 10)),
        (2, 1, (3, 3), (2, 2)),  # the last step of an epoch of three batches
        (2, 4, (3, 7), (8, 16)),  # such an epoch was before it, too
    ],
)
def test_a_checkpoint_counts_batches_where_steps_are_given_other_numbers_of_them(
    run, before, after, processed, expected
):
    loops = copy.deepcopy(run[1].loops)
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    for name, count in zip(("current", "total"), processed, strict=True):
        assert set(progress[name]) == {"ready", "started", "processed", "completed"}, "batch_progress has other fields"
        progress[name].update(ready=count, started=count, processed=count, completed=count - 1)
    internals.rescale_batches(loops, before, after)
    for name, count in zip(("current", "total"), expected, strict=True):
        assert progress[name] == {"ready": count, "started": count, "processed": count, "completed": count - 1}


@pytest.mark.parametrize(("min_steps", "stops"), [(1, False), (None, True)])
def test_a_stop_ends_training_only_after_its_least_length(min_steps, stops):
    trainer = L.Trainer(**{**QUIET, "max_steps": 3, "min_steps": min_steps})
    has(trainer.fit_loop, "_can_stop_early")
    assert not internals.stops_early(trainer)
    trainer.should_stop = True
    assert internals.stops_early(trainer) is stops, "_can_stop_early no longer heeds min_steps"


def test_validation_can_be_run_where_training_is_over():
    class Count(L.Callback):
        epochs = 0

        def on_validation_epoch_end(self, trainer, pl_module):
            self.epochs += not trainer.sanity_checking

        def on_fit_end(self, trainer, pl_module):
            before = self.epochs
            internals.validate_after_last_step(trainer)
            assert self.epochs == before + 1, "val_loop.run no longer validates once"
            assert trainer.training

    count = Count()
    options = {**QUIET, "max_steps": 1, "limit_val_batches": 1, "callbacks": [count]}
    L.Trainer(**options).fit(DMaxModule(make_denoiser()), loader(), loader())
    assert count.epochs >= 1


def test_a_checkpoint_counts_epochs_where_they_are_reopened(run):
    loops = copy.deepcopy(run[1].loops)
    assert internals.epochs_begun(loops) == 1, "epoch_progress counts otherwise"
    closed = run[0]._checkpoint_connector.dump_checkpoint()["loops"]
    internals.reopen_epoch(closed)
    assert closed["fit_loop"]["epoch_progress"] == loops["fit_loop"]["epoch_progress"]


def test_a_strategy_of_several_ranks_knows_the_address_of_the_first():
    strategy = L.Trainer(**{**QUIET, "strategy": "ddp", "devices": 2}).strategy
    has(has(strategy, "cluster_environment"), "main_address")
    assert internals.main_address(strategy) == "127.0.0.1"


def test_a_checkpoint_counts_validation_where_it_is_requested(run):
    progress = run[1].loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    fields = {"ready", "started", "processed", "completed"}
    assert set(progress["total"]) == set(progress["current"]) == fields, "val_loop.batch_progress has other fields"
    assert "is_last_batch" in progress, "val_loop.batch_progress has no is_last_batch"
    internals.request_validation(run[1].loops)
    assert progress["total"] == {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    assert progress["is_last_batch"] is False


def test_a_checkpoint_counts_steps_where_the_last_one_is_added(run):
    state = run[1].loops["fit_loop"]["epoch_loop.state_dict"]
    assert state["_batches_that_stepped"] == 2, "epoch_loop.state_dict counts _batches_that_stepped otherwise"
    internals.count_step(run[1].loops)
    assert state["_batches_that_stepped"] == 3


@pytest.mark.parametrize(("chosen", "version"), [(None, 7), (2, 2)])
def test_a_log_is_continued_under_its_version_from_a_step_on(tmp_path, chosen, version):
    logger = TensorBoardLogger(tmp_path, version=chosen)
    assert has(logger, "_version") == chosen, "_version is no longer None until it is chosen"
    has(logger, "_kwargs")
    internals.resume_log(logger, 7, 5)
    assert logger.version == version, "the logger's version no longer comes from _version"
    logger.experiment.close()
    (log,) = (tmp_path / "lightning_logs" / f"version_{version}").iterdir()
    starts = [event.step for event in EventFileLoader(str(log)).Load() if event.HasField("session_log")]
    assert starts == [5], "_kwargs no longer reach the SummaryWriter, or it does not purge"


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_the_version_of_a_log_can_be_chosen(tmp_path, kind):
    logger = kind(tmp_path)
    has(logger, "_version")
    assert not internals.has_version(logger), "_version is no longer None until it is chosen"
    internals.set_version(logger, 3)
    assert internals.has_version(logger)
    assert logger.log_dir.endswith("version_3"), "the folder of a log is no longer named by _version"


@pytest.mark.parametrize("kind", [BatchSizeFinder, LearningRateFinder])
def test_a_search_says_whether_training_follows_it(kind):
    callback = kind()
    has(callback, "_early_exit")
    assert not internals.ends_after_search(callback)
    assert getsource(Tuner).count("._early_exit = True") == 2, "Tuner no longer sets _early_exit"


def test_a_module_says_whether_it_has_a_trainer():
    module = DMaxModule(make_denoiser())
    has(module, "_trainer")
    assert not internals.is_attached(module)
    module.trainer = L.Trainer(**QUIET)
    assert internals.is_attached(module), "module.trainer no longer sets _trainer"


def test_all_processes_of_a_strategy_share_the_model():
    strategy = FSDP2Strategy()
    has(strategy, "_data_parallel_size")
    has(strategy, "_tensor_parallel_size")
    strategy.parallel_devices = [torch.device("cpu")] * 3
    internals.share_among_all(strategy)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (3, 1)


def test_a_sharded_checkpoint_has_everything_but_tensors_in_a_file_of_that_name():
    from lightning.fabric.strategies import model_parallel

    assert has(model_parallel, "_METADATA_FILENAME") == internals.SHARDED_REST_FILE


def test_early_stopping_says_what_there_is_instead_of_an_unknown_metric():
    with pytest.raises(RuntimeError, match="`loss`") as raised:  # else is_unknown_monitor has to know the new text
        EarlyStopping("los")._run_early_stopping_check(
            SimpleNamespace(callback_metrics={"loss": 1.0}, fast_dev_run=False)
        )
    assert internals.is_unknown_monitor(raised.value)
    assert not internals.is_unknown_monitor(RuntimeError("CUDA error"))
    assert not internals.is_unknown_monitor(ValueError("Early stopping conditioned on metric"))


class Counting(DMaxModule):
    """Asks for the number of steps, as a schedule does; notes the rows of each batch."""

    def __init__(self, stop=None):
        super().__init__(make_denoiser(block_length=8), "masked")
        self.stop, self.rows = stop, []

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 10
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_idx):
        self.rows.append(batch["index"].tolist())
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *_):
        if len(self.rows) == self.stop:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/a.ckpt")
            self.trainer.should_stop = True


@pytest.mark.parametrize(("options", "callbacks"), [({}, []), ({"max_tokens": 160}, [RunCheckpoint(resume=False)])])
def test_rows_that_were_counted_before_the_checkpoint_was_read_go_on_where_they_were(tmp_path, options, callbacks):
    def rows_of(stop=None, checkpoint=None):
        module = Counting(stop)
        data = SelfDistilledDataModule(task="chain", num_train=10, num_val=0, batch_size=2, seed=0, **options)
        quiet = {**QUIET, "enable_checkpointing": bool(callbacks)}
        trainer = L.Trainer(max_epochs=2, default_root_dir=tmp_path, callbacks=copy.deepcopy(callbacks), **quiet)
        has(trainer.fit_loop, "_load_combined_loader_states")
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return module.rows

    whole, before = rows_of(), rows_of(stop=3)
    assert len(whole) == 10
    assert before == whole[:3]
    assert before + rows_of(checkpoint=tmp_path / "a.ckpt") == whole


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        (DMaxCLI, LightningCLI, "_parse_ckpt_path"),  # else a checkpoint would name classes to import
        (DMaxCLI, LightningCLI, "_dump_config"),
        (_PlanCLI, LightningCLI, "_run_subcommand"),
        (_PreviewCLI, LightningCLI, "_run_subcommand"),
        (RunProgressBar, RichProgressBar, "_get_train_description"),
    ],
)
def test_private_methods_that_are_overridden_are_still_called(ours, theirs, name):
    assert name in vars(ours)
    assert name in vars(theirs), f"Lightning {L.__version__}: {theirs.__name__} has no method {name} any more"
    assert list(signature(getattr(ours, name)).parameters) == list(signature(getattr(theirs, name)).parameters)
    calls = getsource(getmodule(theirs)).count(f".{name}(")
    assert calls, f"Lightning {L.__version__}: {theirs.__name__} calls {name} no more"
