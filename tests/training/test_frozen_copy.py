import copy
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from dmaxlit import UserError
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.module import DMaxModule
from dmaxlit.noise import FeatureRequest, NoiseStrategy, View
from dmaxlit.randomness import RowGenerator
from tests.conftest import make_batch, make_denoiser
from tests.test_module import QUIET, loader, sgd


class AskingNoise(NoiseStrategy):
    feature_layer = 1

    def views(self, clean, generator):
        self.answer = yield FeatureRequest(clean.ids)
        yield View(clean.ids, clean.response, "plain")


def test_a_strategy_is_answered_in_a_training_step_and_the_copy_is_not_saved_or_trained():
    strategy = AskingNoise()
    module = DMaxModule(make_denoiser(), strategy)
    weights = set(module.state_dict())
    clean = make_batch(special=module.special)
    (loss,) = module.view_losses(clean, RowGenerator(0, [0, 1, 2]))
    assert loss.name == "plain"
    assert strategy.answer.shape == (*clean.ids.shape, 32)
    assert set(module.state_dict()) == weights


def test_a_strategy_that_names_no_layer_is_refused():
    strategy = AskingNoise()
    module = DMaxModule(make_denoiser(), strategy)
    strategy.feature_layer = None
    with pytest.raises(UserError, match="to set feature_layer"):
        module.view_losses(make_batch(special=module.special), RowGenerator(0, [0, 1, 2]))


def test_a_module_refuses_a_layer_that_does_not_exist_before_training():
    strategy = AskingNoise()
    strategy.feature_layer = 7
    with pytest.raises(UserError, match=r"noise\.layer: expected 0 to 1"):
        DMaxModule(make_denoiser(), strategy)


def test_a_checkpoint_refuses_another_frozen_copy():
    one, same, other = (DMaxModule(make_denoiser(seed=seed), AskingNoise()) for seed in (0, 0, 1))
    for module in (one, same, other):
        module.frozen_features()
    with torch.no_grad():
        one.backbone.embedding.add_(1.0)  # training does not matter
    checkpoint = {}
    one.on_save_checkpoint(checkpoint)
    same.on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match="backbone: expected the weights that the run began with"):
        other.on_load_checkpoint(checkpoint)


def test_a_checkpoint_of_a_run_without_a_frozen_copy_is_refused_where_training_needs_one():
    module = DMaxModule(make_denoiser(), AskingNoise())
    module.on_load_checkpoint({})  # to decode
    module.frozen_features()
    with pytest.raises(
        UserError, match=r"^ckpt_path: expected a checkpoint of a run with .*, got one of a run without; "
    ):
        module.on_load_checkpoint({})
    module.trainer = trainer = SimpleNamespace(training=False)
    module.on_load_checkpoint({})
    trainer.training = True
    with pytest.raises(UserError, match=r"^ckpt_path: "):
        module.on_load_checkpoint({})


def test_a_copy_of_the_module_has_no_frozen_copy():
    module = DMaxModule(make_denoiser(), AskingNoise())
    features = module.frozen_features()
    assert copy.deepcopy(module).frozen_features() is not features
    assert module.frozen_features() is features
    checkpoint = {}
    copy.deepcopy(module).on_save_checkpoint(checkpoint)
    assert "frozen_copy" not in checkpoint


def test_each_run_has_a_copy_of_its_own():
    module = DMaxModule(make_denoiser(), AskingNoise(), sgd)
    copies = []
    for _ in range(2):
        begun = module.backbone.embedding.detach().clone()
        L.Trainer(**QUIET, max_steps=1).fit(module, loader())
        copied = next(iter(module.frozen_features()._trunk.model.parameters()))
        assert torch.equal(copied, begun)
        copies.append(copied)
    assert not torch.equal(*copies)


def test_the_copy_has_the_precision_that_the_trainer_trains_in_and_the_checksum_of_what_was_copied():
    expected = DMaxModule(make_denoiser(), AskingNoise()).frozen_features().checksum()
    module = DMaxModule(make_denoiser(), AskingNoise(), sgd)
    L.Trainer(**QUIET, precision="bf16-true", max_steps=1).fit(module, loader())
    features = module.frozen_features()
    assert {tensor.dtype for tensor in features._trunk.model.parameters()} == {torch.bfloat16}
    assert features.checksum() == expected
    assert module.noise.answer.dtype == torch.float32


def test_a_strategy_of_another_layer_is_refused():
    module = DMaxModule(make_denoiser(), AskingNoise())
    module.frozen_features()
    module.noise = AskingNoise()
    module.noise.feature_layer = 0
    with pytest.raises(UserError, match=r"asks for features of layer 1, of which .* got one of layer 0"):
        module.frozen_features()


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
@pytest.mark.parametrize("averaging", [[], [EMAWeightAveraging]])  # which calls configure_model once more
def test_a_module_that_was_fitted_goes_on_from_a_checkpoint_of_its_run(tmp_path, averaging):
    module = DMaxModule(make_denoiser(), AskingNoise(), sgd)
    keeper = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    settings = {**QUIET, "enable_checkpointing": True}
    L.Trainer(**settings, max_steps=1, callbacks=[keeper, *(kind() for kind in averaging)]).fit(module, loader())
    begun = module.frozen_features().checksum()
    trainer = L.Trainer(**QUIET, max_steps=2, callbacks=[kind() for kind in averaging])
    trainer.fit(module, loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert module.frozen_features().checksum() == begun


class Around(L.LightningModule):
    """Another module around ours."""

    def __init__(self, lora=None):
        super().__init__()
        self.inner = DMaxModule(make_denoiser(), AskingNoise(), lora=lora)

    def training_step(self, batch, batch_idx):
        return self.inner.loss(batch)

    def configure_optimizers(self):
        return sgd([(name, p) for name, p in self.named_parameters() if p.requires_grad])


def test_a_module_within_another_that_goes_on_needs_its_copy_before(tmp_path):
    def fit(module, steps, **options):
        trainer = L.Trainer(**QUIET, max_steps=steps)
        trainer.fit(module, loader(), **options)
        return trainer

    first = Around()
    fit(first, 1).save_checkpoint(tmp_path / "x.ckpt")
    resumed = {"ckpt_path": tmp_path / "x.ckpt", "weights_only": True}
    with pytest.raises(UserError, match=r"expected begin_frozen_copy\(\) of the contained DMaxModule to be"):
        fit(Around(), 2, **resumed)
    second = Around()
    second.inner.begin_frozen_copy()
    fit(second, 2, **resumed)
    assert second.inner.frozen_features().checksum() == first.inner.frozen_features().checksum()


def test_with_adapters_a_module_within_another_needs_no_copy(tmp_path):
    pytest.importorskip("peft")
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(Around(LoraSettings(r=2)), loader())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    L.Trainer(**QUIET, max_steps=2).fit(
        Around(LoraSettings(r=2)), loader(), ckpt_path=tmp_path / "x.ckpt", weights_only=True
    )
