import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from dmaxlit import DMaxModule, load
from dmaxlit.backbone import TrainingForward
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.data import SelfDistilledDataModule
from tests.conftest import make_batch, make_denoiser
from tests.test_module import QUIET, assert_same_weights, loader

pytest.importorskip("peft")


def adamw(params):
    return torch.optim.AdamW([p for _, p in params], lr=0.05, weight_decay=0.1)


def make(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        lora = LoraSettings(**{"r": 4, "alpha": 8, **settings})
        return DMaxModule(make_denoiser(sharpen=3.0), "on_policy", adamw, lora=lora)


def train(module, steps=3, **trainer):
    lightning_trainer = L.Trainer(**{**QUIET, "max_steps": steps, **trainer})
    lightning_trainer.fit(module, loader())


def logits_of(module):
    clean = make_batch()
    view = torch.where(clean.response, clean.special.mask_id, clean.ids)
    with torch.no_grad():
        backbone = module.eval().backbone
        return backbone.logits(TrainingForward(backbone, clean)(view))


def test_before_training_nothing_has_changed():
    assert torch.equal(logits_of(make()), logits_of(DMaxModule(make_denoiser(sharpen=3.0))))


def test_only_adapters_and_the_mask_embedding_are_trained():
    module, before = make(), make()
    train(module)
    moved = {
        name for (name, a), b in zip(module.named_parameters(), before.parameters(), strict=True) if (a != b).any()
    }
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert moved == trained
    assert "backbone.mask_delta" in trained
    assert all("lora_" in name or name == "backbone.mask_delta" for name in trained)
    # Seven linear layers in each of two layers, two matrices each, and the mask embedding.
    assert len(trained) == 2 * 7 * 2 + 1
    assert not any("lora_" in name and "lm_head" in name for name in trained)


@pytest.mark.parametrize("tied", [True, False])
def test_an_export_is_merged_and_does_the_same(tmp_path, tied):
    module = DMaxModule(make_denoiser(sharpen=3.0, tie_word_embeddings=tied), "on_policy", adamw, lora=LoraSettings(4))
    train(module)
    module.export(tmp_path / "m")
    again = load(tmp_path / "m")
    assert not [name for name in again.state_dict() if "lora" in name or "delta" in name]
    torch.testing.assert_close(logits_of(again), logits_of(module), atol=2e-5, rtol=1e-4)
    assert (logits_of(again) != logits_of(DMaxModule(make_denoiser(sharpen=3.0, tie_word_embeddings=tied)))).any()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m").state_dict()
    for name, weight in again.backbone.model.state_dict().items():
        assert torch.equal(theirs[name], weight)
    train(module.train(), 1)  # and training goes on: the merge was elsewhere


def test_beside_frozen_weights_of_16_bits_what_is_trained_is_float32(tmp_path):
    """Of steps this small bfloat16 keeps nothing."""

    def make_16_bits(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            denoiser, lora = make_denoiser(sharpen=3.0, dtype="bfloat16"), LoraSettings(r=4)
            small = lambda params: torch.optim.AdamW([p for _, p in params], lr=1e-5)  # noqa: E731
            return DMaxModule(denoiser, "on_policy", small, lora=lora)

    module = make_16_bits(0)
    trained = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in module.parameters() if not p.requires_grad} == {torch.bfloat16}
    trainer = L.Trainer(**QUIET, max_steps=3)
    trainer.fit(module, loader())
    assert all((module.get_parameter(name) != before).any() for name, before in trained.items())

    resumed = make_16_bits(1)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    L.Trainer(**QUIET, max_steps=3).fit(resumed, loader(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert_same_weights(resumed, module)
    assert all(p.dtype == module.get_parameter(name).dtype for name, p in resumed.named_parameters())

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # so that they make a difference
        for name in trained:
            if "lora_B" in name or "delta" in name:
                module.get_parameter(name).normal_(std=0.1, generator=generator)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    module.export(tmp_path / "m")
    expected = logits_of(module)

    def distance(other):
        return (logits_of(other) - expected)[expected.isfinite()].float().square().mean().sqrt()

    of_adapters = distance(DMaxModule(make_denoiser(sharpen=3.0, dtype="bfloat16")))
    for path in ("m", "x.ckpt"):
        alone = load(tmp_path / path, dtype="bfloat16")
        assert {p.dtype for p in alone.parameters()} == {torch.bfloat16}
        assert distance(alone) < 0.03 * of_adapters, "rounding"


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_stands_alone_and_training_resumes_from_it(tmp_path):
    def run(folder, ckpt_path=None):
        module = make()
        saved = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = L.Trainer(**{**QUIET, "enable_checkpointing": True, "max_steps": 4, "callbacks": [saved]})
        data = SelfDistilledDataModule(
            task="chain", task_options={"operations": 3}, num_train=32, num_val=0, batch_size=4, seed=1
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module

    straight = run("straight")
    assert_same_weights(straight, run("resumed", tmp_path / "straight" / "step=2.ckpt"))
    alone = load(tmp_path / "straight" / "step=4.ckpt")
    torch.testing.assert_close(logits_of(alone), logits_of(straight), atol=2e-5, rtol=1e-4)


def test_decoding_with_adapters_is_decoding_with_the_merged_model(tmp_path):
    module = make()
    train(module)
    module.export(tmp_path / "m")
    answers = [each.eval().generate(["3 +1 *3 ?"], max_new_tokens=16) for each in (module, load(tmp_path / "m"))]
    assert answers[0][0].token_ids == answers[1][0].token_ids


def test_layers_are_chosen_by_name():
    names = [name for name, _ in make(target_modules=["q_proj"]).named_parameters() if "lora_" in name]
    assert len(names) == 4
    assert all("q_proj" in name for name in names)
