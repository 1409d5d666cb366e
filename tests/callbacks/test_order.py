import itertools

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging

import dmaxlit
from dmaxlit.callbacks import ComparisonReport, DecoderSpec, RunCheckpoint, SPDValidation, ViewDiagnostics
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from tests.callbacks.fakes import LIGHTNING_WARNINGS, FakeModule, make_data, make_trainer
from tests.test_module import sgd

pytestmark = [
    LIGHTNING_WARNINGS,
    pytest.mark.filterwarnings(
        "ignore:You're using the WeightAveraging callback", "ignore:You defined a `validation_step`"
    ),
]

SPECS = [DecoderSpec("threshold", {"threshold": 1.0})]


class Weights(L.Callback):
    """Keeps the embedding after every step."""

    def __init__(self):
        self.steps = {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.steps[trainer.global_step] = pl_module.backbone.embedding.detach().clone()


class Decoded(FakeModule):
    """Keeps the embedding that it last answered with, in training and afterwards."""

    def generate_batch(self, prompts, settings, **others):
        self.answered_with = self.backbone.embedding.detach().clone()
        return super().generate_batch(prompts, settings, **others)


def fit(folder, callbacks, **options):
    module, weights = Decoded(optimizer=sgd), Weights()
    callbacks = [*callbacks, weights, RunCheckpoint(folder=str(folder / "ckpt"))]
    trainer = make_trainer(folder, callbacks, enable_checkpointing=True, **options)
    trainer.fit(module, datamodule=make_data())
    return module, weights.steps, trainer


def reports(folder):
    return ComparisonReport(str(folder / "out"), SPECS), SPDValidation(SPECS, curve=[0.5])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_averaged_model_is_exported_and_decoded_in_every_order(tmp_path, order):
    callbacks = [*reports(tmp_path), EMAWeightAveraging(decay=0.6)]
    module, steps, _ = fit(tmp_path, [callbacks[i] for i in order])
    start, *others = [steps[step] for step in sorted(steps)]
    average = start  # the first update copies
    for weights in others:
        average = 0.6 * average + 0.4 * weights
    assert (average - others[-1]).abs().max() > 1e-4
    exported = dmaxlit.load(tmp_path / "out" / "model").backbone.embedding
    torch.testing.assert_close(exported, average)
    assert torch.equal(exported, dmaxlit.load(tmp_path / "ckpt" / "last.ckpt").backbone.embedding)
    assert torch.equal(exported, module.answered_with)


@pytest.mark.parametrize("first", [True, False])
def test_stochastic_weight_averaging_ends_before_the_report(tmp_path, first):
    swa = StochasticWeightAveraging(swa_lrs=0.5, swa_epoch_start=1, annealing_epochs=1)
    report, _ = reports(tmp_path)
    module, steps, _ = fit(tmp_path, [report, swa] if first else [swa, report], max_epochs=3, limit_val_batches=0)
    exported = dmaxlit.load(tmp_path / "out" / "model").backbone.embedding
    assert torch.equal(exported, module.backbone.embedding)
    assert not torch.equal(exported, steps[max(steps)])
    (schedule,) = read_checkpoint(tmp_path / "ckpt" / "last.ckpt")["lr_schedulers"]
    assert schedule["anneal_epochs"] == 1  # it is that of the averaging


def test_reports_keep_their_order_and_run_before_checkpoints_are_written(tmp_path):
    report, validation = reports(tmp_path)
    _, _, trainer = fit(tmp_path, [report, validation, ViewDiagnostics()])
    kinds = [type(callback).__name__ for callback in trainer.callbacks]
    assert kinds[-3:] == ["ComparisonReport", "SPDValidation", "RunCheckpoint"]


@pytest.mark.parametrize("first", [True, False])
def test_a_watched_module_can_be_averaged(tmp_path, first):
    def diagnostics(name, callbacks):
        *_, trainer = fit(tmp_path / name, callbacks)
        tags = ("/level_", "accepted_", "precision_")
        return {tag: value for tag, value in trainer.callback_metrics.items() if any(part in tag for part in tags)}

    callbacks = [ViewDiagnostics(), EMAWeightAveraging(decay=0.6)]
    watched = diagnostics("averaged", callbacks if first else callbacks[::-1])
    assert watched
    assert watched == diagnostics("alone", [ViewDiagnostics()])  # of the weights that are trained
