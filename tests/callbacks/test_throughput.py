import resource
import time

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from dmaxlit.callbacks import SPDValidation, TrainingThroughput
from dmaxlit.tokens import Role
from tests.callbacks.fakes import LIGHTNING_WARNINGS, FakeModule, events, make_data, make_trainer

pytestmark = LIGHTNING_WARNINGS


class Clock:
    """A clock that moves only when it is set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class TimedModule(FakeModule):
    """A batch takes two seconds of the clock, and decoding a thousand."""

    clock = None

    def training_step(self, batch, batch_idx):
        self.clock.now += 2.0
        return super().training_step(batch, batch_idx)

    def generate_batch(self, prompts, settings, **others):
        self.clock.now += 1000.0
        return super().generate_batch(prompts, settings, **others)


def test_tokens_without_padding_over_seconds_without_validation(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    module, data = TimedModule(), make_data(num_train=32, batch_size=4)
    module.clock = clock
    callbacks = [SPDValidation(curve=None), TrainingThroughput()]
    make_trainer(
        tmp_path,
        callbacks,
        max_epochs=1,
        accumulate_grad_batches=2,
        log_every_n_steps=2,
        val_check_interval=3,
        logger=TensorBoardLogger(tmp_path, None, ""),
    ).fit(module, datamodule=data)
    tokens = [int((batch["roles"] != Role.PAD).sum()) for batch in data.train_dataloader()]
    points = events(tmp_path).Scalars("throughput/tokens_per_second")
    assert [point.value for point in points] == pytest.approx([sum(tokens[:4]) / 8, sum(tokens[4:]) / 8])
    assert [point.step for point in points] == [1, 3]


def test_nothing_is_logged_between_the_logging_steps(tmp_path):
    trainer = make_trainer(tmp_path, [TrainingThroughput()], max_epochs=1, log_every_n_steps=2, limit_val_batches=0)
    trainer.fit(FakeModule(), datamodule=make_data(num_train=8))
    assert "throughput/tokens_per_second" not in trainer.callback_metrics


def test_a_second_run_logs_at_the_same_steps(tmp_path):
    callback = TrainingThroughput()
    for _ in range(2):
        trainer = make_trainer(tmp_path, [callback], max_epochs=1, limit_val_batches=0)
        trainer.fit(FakeModule(), datamodule=make_data(num_train=8))
        assert "throughput/tokens_per_second" in trainer.callback_metrics


def test_peak_memory_is_logged(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    trainer = make_trainer(tmp_path, [TrainingThroughput()], max_epochs=1, limit_val_batches=0)
    trainer.fit(FakeModule(), datamodule=make_data(num_train=8))
    logged = float(trainer.callback_metrics["throughput/peak_memory_mib"])
    assert before <= logged <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
