"""Folders of logs: one process in each, nothing left on a full disk, no links followed."""

import errno
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn, TrainerState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dmaxlit import UserError
from dmaxlit.callbacks import RunCheckpoint
from dmaxlit.checkpoints.lightning_internals import set_version
from dmaxlit.cli.log_folders import _without_empty_log, log_folders
from dmaxlit.cli.training import DMaxCLI
from dmaxlit.errors import DMaxWarning
from tests.cli.conftest import SHORT
from tests.conftest import limited_files
from tests.lock_holder import held_by_another

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*Trying to"
)

LOGS = Path("runs/lightning_logs")
COMMANDS = ["fit", "validate", "test", "predict"]
LOGGED = "--trainer.log_every_n_steps 1 --trainer.logger TensorBoardLogger --trainer.logger.save_dir runs"


@pytest.mark.parametrize("command", COMMANDS)
def test_on_a_full_disk_one_line_names_the_file_and_nothing_stays(dmax, base, tmp_path, command):
    with limited_files(20_000):
        outcome = dmax(f"{command} --config {base}")
    assert outcome.refusal == (
        f"trainer.default_root_dir: cannot write '{LOGS}/version_0/config.yaml' (File too large)"
    )
    assert list(tmp_path.iterdir()) == [base]


def test_a_disk_that_fills_up_meanwhile_leaves_no_half_configuration(dmax, base, tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.cli.log_folders._ROOM", 0)
    with limited_files(500):
        outcome = dmax(f"test --config {base}")
    assert outcome.refusal.endswith(f"cannot write '{LOGS}/version_0/config.yaml' (File too large)")
    assert [path.name for path in (tmp_path / LOGS / "version_0").glob("*.yaml")] == []


@pytest.mark.parametrize("logger", ["", "--trainer.logger CSVLogger --trainer.logger.save_dir runs"])
def test_a_disk_that_fills_up_before_the_settings_of_the_model_are_written_is_named(dmax, base, monkeypatch, logger):
    def full(path, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.loggers.tensorboard.save_hparams_to_yaml", full)
    monkeypatch.setattr("lightning.pytorch.loggers.csv_logs.save_hparams_to_yaml", full)
    monkeypatch.setattr("lightning.fabric.loggers.csv_logs._ExperimentWriter.save", full)
    outcome = dmax(f"test --config {base} {logger}")
    assert outcome.refusal == (f"trainer.default_root_dir: cannot write '{LOGS}/version_0' (No space left on device)")


@pytest.mark.parametrize("command", ["fit", "test"])
def test_the_locks_and_empty_folders_of_killed_commands_are_removed_and_those_of_others_stay(
    dmax, base, tmp_path, command
):
    folder = tmp_path / LOGS
    for version in (0, 1, 2):
        (folder / f"version_{version}").mkdir(parents=True)
    (folder / "version_0" / "metrics.csv").touch()
    for killed in ("version_0", "version_2"):
        with held_by_another(folder / killed) as other:
            os.kill(other.pid, signal.SIGKILL)
        assert (folder / f".{killed}.lock").exists()
    with held_by_another(folder / "version_1"):
        assert dmax(f"{command} --config {base}").status == 0
        assert sorted(path.name for path in folder.iterdir()) == [
            ".version_1.lock",
            *map("version_{}".format, range(3)),
        ]
        assert (folder / "version_2" / "config.yaml").is_file()


def test_a_run_is_tested_while_it_is_trained_and_each_command_has_a_folder_of_its_own(dmax, base, tmp_path):
    folder = tmp_path / LOGS
    (folder / "version_0").mkdir(parents=True)
    (folder / "version_0" / "config.yaml").write_text("of the run")
    with held_by_another(tmp_path / "runs", "exclusive_folder"), held_by_another(folder / "version_0"):
        for command in ("test", "predict"):
            outcome = dmax(f"{command} --config {base}")
            assert outcome.status == 0, outcome.err
    assert sorted(path.name for path in folder.iterdir()) == ["version_0", "version_1", "version_2"]
    assert (folder / "version_0" / "config.yaml").read_text() == "of the run"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_another_command_has_just_taken_is_left_to_it(dmax, base, tmp_path, monkeypatch, command):
    (tmp_path / LOGS).mkdir(parents=True)
    hold = DMaxCLI._hold_logs

    def hold_too_late(self):
        (logger,) = self.trainer.loggers
        assert logger.version == 0
        set_version(logger, None)
        with monkeypatch.context() as patch:
            patch.setattr(type(logger), "_get_next_version", lambda self: 0)
            (tmp_path / LOGS / "version_0").mkdir()
            hold(self)

    monkeypatch.setattr(DMaxCLI, "_hold_logs", hold_too_late)
    assert dmax(f"{command} --config {base}").status == 0
    assert list((tmp_path / LOGS / "version_0").iterdir()) == []
    assert (tmp_path / LOGS / "version_1" / "config.yaml").is_file()


def logging_rows(tmp_path, *rows, error=None):
    """Log as a command does that names the folder, and end with an error, if any."""
    logger = CSVLogger(tmp_path, version=5, flush_logs_every_n_steps=1)
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    trainer = SimpleNamespace(
        loggers=[logger], callbacks=[], state=state, fit_loop=SimpleNamespace(total_batch_idx=-1 if error else 0)
    )
    with log_folders(trainer):
        for row in rows:
            logger.log_metrics({"loss": row}, step=0)
        logger.save()
        if error is not None:
            raise error
    return {path.name: path.read_text().split()[1:] for path in Path(logger.log_dir).glob("*.csv")}


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_rows_of_the_commands_before_stay_next_to_the_new_ones(tmp_path):
    assert logging_rows(tmp_path, 1.5) == {"metrics.csv": ["1.5,0"]}
    assert logging_rows(tmp_path, 2.5) == {"metrics.0.csv": ["1.5,0"], "metrics.csv": ["2.5,0"]}
    third = logging_rows(tmp_path, 3.5)
    assert third == {"metrics.0.csv": ["1.5,0"], "metrics.1.csv": ["2.5,0"], "metrics.csv": ["3.5,0"]}
    with pytest.raises(UserError, match="refused"):
        logging_rows(tmp_path, 4.5, error=UserError("refused"))
    assert logging_rows(tmp_path) == third


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_disk_that_fills_up_while_a_run_trains_ends_the_log_with_one_warning(tmp_path, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning.fabric.loggers.csv_logs._ExperimentWriter.save", full)
    with pytest.warns(DMaxWarning) as warned:
        logging_rows(tmp_path, 1.5, 2.5)
    folder = str(tmp_path / "lightning_logs" / "version_5")
    assert [str(warning.message) for warning in warned] == [
        f"the log in {folder!r} ends here, it cannot be written (No space left on device)"
    ]
    with pytest.raises(UserError, match=r"cannot write '.*version_5' \(No space left"):
        logging_rows(tmp_path, error=UserError("not reached"))


LOGGER = "--trainer.logger {} --trainer.logger.save_dir runs --trainer.logger.version 5"


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_who_comes_second_into_the_same_folder_is_refused(dmax, base, tmp_path, command, kind):
    folder = LOGS / "version_5"
    with held_by_another(tmp_path / folder) as other:
        refusal = dmax(f"{command} --config {base} {LOGGER.format(kind)}").refusal
    assert refusal.startswith(f"trainer.logger: '{folder}' is being written by process {other.pid} on ")
    assert list(tmp_path.iterdir()) == [base]


def test_who_comes_second_with_the_same_answers_is_refused_and_leaves_nothing(dmax, base, tmp_path):
    with held_by_another(tmp_path / "runs" / "predictions.jsonl") as other:
        refusal = dmax(f"predict --config {base}").refusal
    assert refusal.startswith(f"output: 'runs/predictions.jsonl' is being written by process {other.pid} on ")
    assert list(tmp_path.iterdir()) == [base]


@pytest.mark.parametrize("logger", ["", LOGGER.format("TensorBoardLogger")])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_refused_while_it_reads_the_data_leaves_no_log(dmax, base, tmp_path, command, logger):
    outcome = dmax(f"{command} --config {base} --data.template_options.x 1 {logger}")
    assert outcome.refusal == "template_options: expected a tokenizer with a chat template, got one without"
    assert list(tmp_path.iterdir()) == [base]


@pytest.mark.parametrize("logger", ["", "--trainer.logger CSVLogger --trainer.logger.save_dir runs"])
def test_a_run_that_is_refused_when_its_batches_are_formed_leaves_nothing(dmax, base, tmp_path, logger):
    outcome = dmax(f"fit --config {base} --data.max_tokens 16 {logger}")
    assert outcome.refusal.startswith("max_tokens: expected at least 32, the tokens of the longest row")
    assert list(tmp_path.iterdir()) == [base]


def test_a_folder_of_a_callback_does_not_hide_why_a_run_was_refused(tmp_path):
    trainer = SimpleNamespace(state=TrainerState(fn=TrainerFn.FITTING), fit_loop=SimpleNamespace(total_batch_idx=-1))

    def refused():
        (tmp_path / "profile").mkdir()
        (tmp_path / "hparams.yaml").touch()
        raise UserError("refused")

    with pytest.raises(UserError, match="refused"), _without_empty_log(tmp_path, trainer):
        refused()
    assert list(tmp_path.iterdir()) == [tmp_path / "profile"]


def test_a_resumed_run_that_is_refused_then_keeps_its_log(dmax, begun, tmp_path):
    before = {path: path.read_bytes() for path in (tmp_path / LOGS).rglob("*") if path.is_file()}
    outcome = dmax(f"fit --config {begun} --trainer.overfit_batches 1 --data.max_tokens 64 --checkpoint.resume false")
    assert outcome.refusal.startswith("max_tokens: expected none with overfit_batches")
    assert {path: path.read_bytes() for path in (tmp_path / LOGS).rglob("*") if path.is_file()} == before


def test_a_run_that_is_stopped_time_and_again_keeps_the_points_of_each_time(dmax, begun, tmp_path, monkeypatch):
    save = RunCheckpoint.save

    def stopped(self, trainer, wait=True):
        save(self, trainer, wait)
        raise Killed

    monkeypatch.setattr(RunCheckpoint, "save", stopped)
    (log,) = (tmp_path / LOGS).iterdir()
    for steps in ([0, 1], [0, 1, 2]):  # the last step's are logged by the next session
        with pytest.raises(Killed):
            dmax(f"fit --config {begun} {SHORT}")
        events = EventAccumulator(str(log)).Reload()
        assert [event.step for event in events.Scalars("train/loss")] == steps
    assert len(list(log.glob("events.*"))) == 3


@pytest.mark.parametrize("output", ["/dev/null", "."])
def test_an_output_that_is_no_file_is_refused_before_anything_is_written(dmax, base, tmp_path, output):
    assert dmax(f"predict --config {base} --output {output}").refusal.startswith("output: expected a file")
    assert list(tmp_path.iterdir()) == [base]


@pytest.mark.parametrize("name", ["hparams.yaml", "events.out.tfevents.1.host.2.0", "metrics.csv"])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_links_that_a_log_would_follow_are_refused(dmax, base, tmp_path, command, name):
    folder = tmp_path / LOGS / "version_5"
    folder.mkdir(parents=True)
    (folder / name).symlink_to(tmp_path / "victim")
    refusal = dmax(f"{command} --config {base} {LOGGER.format('TensorBoardLogger')}").refusal
    assert refusal == (f"trainer.default_root_dir: cannot write '{LOGS}/version_5' ({name} is a link, or no file)")
    assert not (tmp_path / "victim").exists()


def test_a_link_in_place_of_the_configuration_is_replaced(dmax, base, tmp_path):
    folder, victim = tmp_path / LOGS / "version_5", tmp_path / "victim"
    folder.mkdir(parents=True)
    victim.write_text("precious")
    (folder / "config.yaml").symlink_to(victim)
    assert dmax(f"test --config {base} {LOGGER.format('TensorBoardLogger')}").status == 0
    assert victim.read_text() == "precious"
    assert "num_test: 3" in (folder / "config.yaml").read_text()


def test_folders_of_logs_may_stand_elsewhere(dmax, base, tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / LOGS).symlink_to(tmp_path / "large")
    assert dmax(f"test --config {base}").status == 0
    assert (tmp_path / "large" / "version_0" / "config.yaml").is_file()


@pytest.mark.parametrize("name", ["last.ckpt", "epoch=0-step=2.ckpt"])
def test_a_folder_of_checkpoints_with_links_to_another_is_refused(dmax, base, tmp_path, name):
    folder = tmp_path / "runs" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / name).symlink_to(tmp_path / "victim")
    assert dmax(f"fit --config {base}").refusal.endswith(f"runs/checkpoints/{name}")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["checkpoints"]


class Killed(BaseException):
    pass


@pytest.fixture
def end_before_the_first_checkpoint(dmax, base, monkeypatch):
    def end(error, flags=""):
        def fail(self, trainer, wait=True):
            for logger in trainer.loggers:
                logger.save()
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(RunCheckpoint, "save", fail)
            return dmax(f"fit --config {base} {SHORT} {LOGGED} {flags}")

    return end


def logs(folder):
    return sorted(path.name for path in (folder.parent / "lightning_logs").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("again", ["", "--checkpoint.resume false"])
def test_a_run_killed_before_its_first_checkpoint_goes_on_with_its_log(
    dmax, base, folder, end_before_the_first_checkpoint, again
):
    for _ in range(2):
        with pytest.raises(Killed):
            end_before_the_first_checkpoint(Killed(), again)
        assert logs(folder) == ["version_0"]
    assert dmax(f"fit --config {base} {SHORT} {LOGGED} {again}").status == 0
    assert logs(folder) == ["version_0"]
    events = EventAccumulator(str(folder.parent / "lightning_logs" / "version_0")).Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == sorted(set(steps))
    assert not (folder / "begun.json").exists()


def test_another_run_gets_another_log_and_a_refused_one_leaves_no_record(
    dmax, base, folder, end_before_the_first_checkpoint
):
    with pytest.raises(Killed):
        end_before_the_first_checkpoint(Killed())
    assert end_before_the_first_checkpoint(UserError("x"), "--model.optimizer.lr 0.1").err == "error: x\n"
    assert logs(folder) == ["version_0", "version_1"]
    assert not (folder / "begun.json").exists()
