import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

import dmaxlit
from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.callbacks import (
    BlockWarmup,
    ComparisonReport,
    FiniteGuard,
    NextTokenTraining,
    SPDValidation,
    ViewDiagnostics,
)
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.noise import MaskedNoise
from tests.conftest import make_denoiser
from tests.test_module import QUIET, assert_same_weights, loader, sgd


class WithHead(DMaxModule):
    def __init__(self, backbone, width=3, **options):
        super().__init__(backbone, **options)
        self.head = torch.nn.Linear(width, 1)


def saved(path, module):
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, loader())
    trainer.save_checkpoint(path)
    return module


def test_a_subclass_is_loaded_with_its_own_weights(tmp_path):
    module = saved(tmp_path / "x.ckpt", WithHead(make_denoiser(sharpen=3.0), optimizer=sgd))
    module.set_task("chain", {})
    again = WithHead.load_from_checkpoint(tmp_path / "x.ckpt", noise="masked")
    assert_same_weights(module, again)
    assert isinstance(again.noise, MaskedNoise)
    assert_same_weights(module.backbone, dmaxlit.load(tmp_path / "x.ckpt").backbone)


def test_our_own_module_is_loaded_too(tmp_path):
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    module.set_task("chain", {})
    saved(tmp_path / "x.ckpt", module)
    again = DMaxModule.load_from_checkpoint(tmp_path / "x.ckpt", map_location="cpu")
    assert_same_weights(module, again)
    assert again.task_name == "chain"


def test_adapters_are_merged(tmp_path):
    module = WithHead(make_denoiser(sharpen=3.0), lora=LoraSettings(r=2), optimizer=sgd)
    saved(tmp_path / "x.ckpt", module)
    again = WithHead.load_from_checkpoint(tmp_path / "x.ckpt")
    assert torch.equal(again.head.weight, module.head.weight)
    assert_same_weights(again.backbone, dmaxlit.load(tmp_path / "x.ckpt").backbone)


@pytest.mark.parametrize(("cls", "options"), [(DMaxModule, {}), (WithHead, {"width": 5})])
def test_weights_of_another_class_are_refused(tmp_path, cls, options):
    saved(tmp_path / "x.ckpt", WithHead(make_denoiser(), optimizer=sgd))
    with pytest.raises(UserError, match=r"checkpoint: expected the weights of .* such as head.weight"):
        cls.load_from_checkpoint(tmp_path / "x.ckpt", **options)
    if cls is DMaxModule:
        assert cls.load_from_checkpoint(tmp_path / "x.ckpt", strict=False).backbone.block_length == 8


class Outer(L.LightningModule):
    """Contains our module and adds a loss."""

    def __init__(self, by_step):
        super().__init__()
        self.inner = DMaxModule(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0))
        self.by_step = by_step

    def training_step(self, batch, batch_idx):
        loss = self.inner.training_step(batch, batch_idx) if self.by_step else self.inner.loss(batch)
        self.log("outer", loss.detach())
        return loss + self.inner.backbone.embedding.square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


@pytest.mark.parametrize("by_step", [True, False])
def test_a_module_within_another_trains_by_lightning_s_rules(by_step):
    outer = Outer(by_step)
    trainer = L.Trainer(**QUIET, max_steps=1, accumulate_grad_batches=2, callbacks=[FiniteGuard()])
    trainer.fit(outer, loader(4))
    expected = DMaxModule(make_denoiser(sharpen=3.0), MaskedNoise(level=1.0))
    losses = [expected.loss(batch) for batch in list(loader(4))[:2]]
    (sum(losses) / 2 + expected.backbone.embedding.square().sum()).backward()
    for one, other in zip(outer.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other - 0.05 * other.grad, atol=2e-6, rtol=1e-5)
    assert float(trainer.callback_metrics["outer"]) == pytest.approx(float(losses[1].detach()), rel=1e-5)


@pytest.mark.parametrize("cls", [BlockWarmup, ComparisonReport, NextTokenTraining, SPDValidation, ViewDiagnostics])
def test_callbacks_that_need_our_module_refuse_another(cls):
    callback = cls({0: 8}) if cls is BlockWarmup else cls()
    with pytest.raises(UserError, match=f"{cls.__name__}: expected the trainer's module to be a DMaxModule"):
        L.Trainer(**QUIET, max_steps=1, callbacks=[callback]).fit(Outer(False), loader(4))


def test_the_guard_stops_another_module_in_one_line():
    class Broken(Outer):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["text"], batch_idx) * torch.nan

    wrapped = DataLoader([{"text": batch} for batch in loader(4)], batch_size=None)
    with pytest.raises(
        UserError, match="expected finite losses and gradients, got at step 1 a loss of nan for a micro"
    ):
        L.Trainer(**QUIET, max_steps=1, callbacks=[FiniteGuard()]).fit(Broken(False), wrapped)


def test_the_data_of_another_module_need_bind():
    data = SelfDistilledDataModule(task="chain", num_train=4, num_val=0, batch_size=2)
    with pytest.raises(UserError, match="data: expected the trainer's module to be a DMaxModule, got Outer"):
        L.Trainer(**QUIET, max_steps=1).fit(Outer(False), datamodule=data)
    outer = Outer(False)
    data.bind(outer.inner.tokenizer, outer.inner.backbone.block_length, outer.inner.backbone.max_length)
    L.Trainer(**QUIET, max_steps=1).fit(outer, datamodule=data)
