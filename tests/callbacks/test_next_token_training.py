import lightning as L

from dmaxlit import DMaxModule
from dmaxlit.callbacks import NextTokenTraining
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader, sgd


def test_next_token_training_replaces_the_losses_while_it_trains():
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    trainer = L.Trainer(**QUIET, max_steps=2, callbacks=[NextTokenTraining()])
    trainer.fit(module, loader())
    losses = {name for name in trainer.callback_metrics if name.startswith("train/loss_")}
    assert losses == {"train/loss_next"}
    assert module.view_losses.__func__ is DMaxModule.view_losses
