import lightning as L
import pytest
import torch

from dmaxlit import DMaxModule, UserError
from dmaxlit.callbacks import BlockWarmup, NextTokenTraining, TrainingThroughput, ViewDiagnostics
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader, sgd


class Ends(L.Callback):
    def on_train_batch_end(self, *args):
        raise RuntimeError("ended")


def test_a_run_that_an_error_ends_leaves_the_module_as_it_was():
    module = DMaxModule(make_denoiser(), optimizer=sgd)
    diagnostics = ViewDiagnostics(grad_norm_every_n_steps=1)
    callbacks = [BlockWarmup({0: 1, 2: 8}), NextTokenTraining(), diagnostics, Ends()]
    with pytest.raises(RuntimeError, match="ended"):
        L.Trainer(**QUIET, max_steps=2, log_every_n_steps=1, callbacks=callbacks).fit(module, loader())
    assert module.training_block_length is None
    assert module.view_losses.__func__ is DMaxModule.view_losses
    assert module.view_watchers == []
    assert (diagnostics._totals, bool(diagnostics._sums)) == ([], False)


class Other(L.LightningModule):
    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize(
    "callback", [BlockWarmup({0: 8}), NextTokenTraining(), TrainingThroughput(), ViewDiagnostics()]
)
def test_another_module_is_refused_in_one_line(callback):
    with pytest.raises(UserError, match=r"^\w+: expected the trainer's module to be a DMaxModule"):
        L.Trainer(**QUIET, max_steps=1, callbacks=[callback]).fit(Other(), loader())
