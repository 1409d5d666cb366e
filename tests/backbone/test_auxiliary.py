"""The auxiliary model: what it computes, trains, stores, and refuses."""

import json
import shutil

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.backbone.auxiliary_source import refuse_other_tokenizer
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.callbacks import BlockWarmup, NextTokenTraining
from dmaxlit.checkpoints.lightning_file import checkpoint_metadata
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.decoding.joint import Spans
from dmaxlit.evaluation.autoregressive import AutoregressiveModel
from dmaxlit.noise import NOISE, MaskedNoise, UniformNoise
from dmaxlit.randomness import RowGenerator
from dmaxlit.tasks import TASKS
from dmaxlit.weights_hash import model_hash, weights_hash
from tests.conftest import TINY, make_batch, make_denoiser
from tests.test_module import QUIET, loader, sgd

PROMPTS = ["3 +1 ?", "7 +1 *3 -2 ?", "5 ?"]


def make_module(span_length=4, lora=None, noise=None, sharpen=3.0, dtype="float32", **config):
    torch.manual_seed(0)
    settings = AuxiliarySettings(config={**TINY, **config}, span_length=span_length, lora=lora)
    noise = MaskedNoise(span_length=4) if noise is None else noise
    return DMaxModule(make_denoiser(sharpen=sharpen, dtype=dtype), noise, optimizer=sgd, auxiliary=settings, seed=0)


def spans_like(auxiliary, rows=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, auxiliary.span_length)
    logits = 3 * torch.randn(*shape, auxiliary.vocab_size, generator=generator)
    logits[..., 37] = -torch.inf
    masked = torch.rand(shape, generator=generator) < 0.7
    ids = torch.where(masked, 37, torch.randint(0, 35, shape, generator=generator))
    return Spans(ids, masked, logits.softmax(-1))


def slow_logits(auxiliary, marginals, ids, masked, before):
    """Compute the logits of the next token of one span: the whole input anew, position by position, without a cache."""
    table = auxiliary.model.get_input_embeddings().weight
    rows = [auxiliary.think[0]]
    for place in range(auxiliary.span_length):
        if masked[place]:
            rows.append(sum(marginals[place, v] * table[v] for v in range(len(table)) if v != 37))
        else:
            rows.append(table[ids[place]])
    rows += [auxiliary.think[1], *(table[token] for token in before)]
    scale = getattr(auxiliary.model.get_input_embeddings(), "embed_scale", 1.0)  # Gemma's
    inputs = scale * torch.stack(rows).unsqueeze(0)
    logits = auxiliary.model(inputs_embeds=inputs).logits[0, -1].clone()
    logits[37] = -torch.inf
    return logits


@pytest.mark.parametrize("config", [{}, {"model_type": "gemma", "initializer_range": 0.3}], ids=["qwen3", "gemma"])
@torch.no_grad()
def test_decoding_with_a_cache_and_scoring_are_the_slow_reference(config):
    auxiliary = make_module(**config).backbone.auxiliary.eval()
    spans = spans_like(auxiliary)
    seen = []

    def choose(place, logits):
        seen.append(logits)
        return torch.where(spans.masked[:, place], logits.argmax(-1), spans.ids[:, place])

    tokens = auxiliary.decode(spans, choose)
    scores = auxiliary.score(spans, tokens)
    for row in range(len(tokens)):
        for place in range(4):
            args = spans.marginals[row], spans.ids[row], spans.masked[row], tokens[row, :place].tolist()
            expected = slow_logits(auxiliary, *args)
            torch.testing.assert_close(seen[place][row], expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(scores[row, place], expected, rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_the_slow_reference_and_reaches_the_auxiliary_model_alone():
    module = make_module()
    clean = make_batch(special=module.special)
    (loss,) = module.view_losses(clean, RowGenerator(0, [0, 1, 2]))
    loss.total.backward()
    assert all(p.grad is None for p in module.backbone.model.parameters())
    assert all(p.grad is not None for p in module.backbone.auxiliary.parameters())

    view = next(module.noise.views(clean, RowGenerator(0, [0, 1, 2])))
    plain = DMaxModule(make_denoiser(sharpen=3.0), module.noise, seed=0)
    forward = []
    plain.view_watchers.append(lambda view, prediction, loss, clean: forward.append(prediction.logits.detach()))
    plain.view_losses(clean, RowGenerator(0, [0, 1, 2]))
    marginals = torch.zeros(*clean.ids.shape, 38)
    marginals[view.supervised] = forward[0].softmax(-1)
    total = 0.0
    module.requires_grad_(False)
    for row, place in view.supervised.nonzero().tolist():
        start = place // 4 * 4
        part = slice(start, start + 4)
        logits = slow_logits(
            module.backbone.auxiliary,
            marginals[row, part],
            view.ids[row, part],
            view.is_masked[row, part],
            clean.ids[row, start:place].tolist(),
        )
        total -= float(logits.log_softmax(-1)[clean.ids[row, place]])
    assert float(loss.total) == pytest.approx(total, rel=1e-4)


def decode(module, **options):
    settings = {"decoder": "codila", "max_new_tokens": 24, **options}
    return [(a.token_ids, a.num_forwards) for a in module.generate(PROMPTS, **settings)]


@pytest.mark.parametrize("lora", [None, LoraSettings(r=2)], ids=["full", "lora"])
def test_exports_and_checkpoints_decode_as_the_module_does(tmp_path, lora):
    module = make_module(lora=lora)
    module.backbone.source_metadata["training"] = {"noise": "oput", "steps": 400}  # of the denoiser, which is frozen
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = L.Trainer(**{**QUIET, "default_root_dir": tmp_path}, max_steps=2)
    trainer.fit(module, loader())
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("backbone.auxiliary.") for name in changed)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    module.eval().export(tmp_path / "model")
    assert (tmp_path / "model" / "auxiliary" / "think.safetensors").is_file()
    expected = decode(module)
    exported, stored = load(tmp_path / "model"), load(tmp_path / "last.ckpt")
    assert decode(exported) == decode(stored) == expected
    assert not any(p.requires_grad for p in exported.backbone.auxiliary.parameters())
    stored.export(tmp_path / "again")
    assert decode(load(tmp_path / "again")) == expected
    for name in ("model", "again"):
        metadata = json.loads((tmp_path / name / "dmaxlit.json").read_text())
        assert metadata["training"] == {"noise": "oput", "steps": 400}
        assert metadata["auxiliary_training"] == {"noise": "masked", "steps": 2}
        assert "- Auxiliary model trained with noise: `masked`, 2 steps" in (tmp_path / name / "README.md").read_text()


@pytest.mark.parametrize("lora", [None, LoraSettings(r=2)], ids=["full", "lora"])
def test_beside_a_denoiser_of_16_bits_what_is_trained_is_float32(tmp_path, lora):
    module = make_module(lora=lora, dtype="bfloat16")
    types = {name: p.dtype for name, p in module.named_parameters()}
    trained = {p.dtype for p in module.parameters() if p.requires_grad}
    assert trained == {torch.float32}
    assert {p.dtype for p in module.parameters() if not p.requires_grad} == {torch.bfloat16}
    trainer = L.Trainer(**QUIET, max_steps=2)
    trainer.fit(module, loader())
    assert {name: p.dtype for name, p in module.named_parameters()} == types
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    module.eval().export(tmp_path / "model")
    spans = spans_like(module.backbone.auxiliary)
    with torch.no_grad():
        expected = module.backbone.auxiliary.score(spans, spans.ids)
        for name in ("model", "last.ckpt"):
            auxiliary = load(tmp_path / name, dtype="bfloat16").backbone.auxiliary
            assert {p.dtype for p in auxiliary.parameters()} == {torch.bfloat16}
            torch.testing.assert_close(auxiliary.score(spans, spans.ids).float(), expected.float(), atol=0.3, rtol=0.05)
    again = DMaxModule(load(tmp_path / "model", dtype="bfloat16").backbone, auxiliary=AuxiliarySettings())
    assert {p.dtype for p in again.parameters() if p.requires_grad} == {torch.float32}


def test_a_model_without_sdpa_has_its_own_attention(tmp_path):
    module = make_module(model_type="gemma2", query_pre_attn_scalar=16).eval()
    module.export(tmp_path / "model")
    payload = checkpoint_metadata(module.backbone, module.metadata())
    torch.save({"dmaxlit": payload, "state_dict": module.state_dict(), "global_step": 1}, tmp_path / "last.ckpt")
    for source in ("model", "last.ckpt"):
        assert decode(load(tmp_path / source)) == decode(module)
    auxiliary = str(tmp_path / "auxiliary")
    module.backbone.auxiliary.model.save_pretrained(auxiliary)
    module.tokenizer.save_pretrained(auxiliary)
    make_denoiser().train_auxiliary(AuxiliarySettings(pretrained=auxiliary))
    AutoregressiveModel.load(auxiliary, "autoregressive", torch.device("cpu"), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"mode": "dynamic"}, {"decoder": "codila_verify"}, {"temperature": 1.0}])
def test_answers_depend_on_neither_batch_nor_window(options):
    module = make_module(sharpen=6.0).eval()
    together = decode(module, **options)
    assert decode(module, batch_size=1, **options) == together
    wide = decode(module, window=2, **options)
    assert decode(module, window=2, batch_size=1, **options) == wide


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    def fit(folder, ckpt_path=None):
        module = make_module()
        data = SelfDistilledDataModule(
            task="chain", task_options={"operations": 3}, num_train=16, num_val=0, batch_size=4, seed=1
        )
        checkpoint = ModelCheckpoint(dirpath=tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = L.Trainer(**{**QUIET, "enable_checkpointing": True}, max_steps=6, callbacks=[checkpoint])
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module.state_dict()

    whole = fit("whole")
    resumed = fit("resumed", tmp_path / "whole" / "step=3.ckpt")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_the_weights_hash_knows_the_auxiliary_model():
    module = make_module()
    before = weights_hash(module)
    with torch.no_grad():
        module.backbone.auxiliary.think[0, 0] += 1e-4
    assert weights_hash(module) != before
    module.backbone.auxiliary = None
    assert weights_hash(module) == model_hash(module.backbone.model)


def test_a_stored_auxiliary_model_is_trained_on(tmp_path):
    make_module().export(tmp_path / "model")
    backbone = load(tmp_path / "model").backbone
    think = backbone.auxiliary.think
    backbone.train_auxiliary(AuxiliarySettings(span_length=4))
    assert backbone.auxiliary.think is think
    assert think.requires_grad
    with pytest.raises(UserError, match=r"auxiliary.span_length: expected 4, as of the stored"):
        backbone.train_auxiliary(AuxiliarySettings(span_length=2))


def test_another_tokenizer_is_refused():
    chain, other = TASKS.get("chain").tokenizer(), TASKS.get("dependency").tokenizer()
    with pytest.raises(UserError, match=r"auxiliary.pretrained: expected the denoiser's tokenizer, got another in 'x'"):
        refuse_other_tokenizer(other, chain, "x")
    refuse_other_tokenizer(chain, chain, "x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"span_length": 1}, "auxiliary.span_length: expected 2 to 8 tokens, got 1"),
        ({"span_length": 9}, "auxiliary.span_length: expected 2 to 8 tokens, got 9"),
        ({"span_length": 3}, "auxiliary.span_length: expected a divisor of the block length 8, got 3"),
        ({"config": None}, "auxiliary: expected pretrained or config"),
        ({"pretrained": "x"}, "auxiliary: expected either pretrained or config, got both"),
        ({"config": {**TINY, "max_position_embeddings": 8}}, "auxiliary: expected at least 10 positions"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make_denoiser().train_auxiliary(AuxiliarySettings(**{"config": TINY, **settings}))


def test_a_model_without_an_auxiliary_model_is_refused(denoiser):
    with pytest.raises(UserError, match=r"decoder codila: expected a model with an auxiliary model .* got none"):
        DMaxModule(denoiser).generate("3 ?", decoder="codila")


def test_lora_of_the_denoiser_is_refused():
    denoiser = make_denoiser()
    denoiser.add_lora(LoraSettings(r=2))
    with pytest.raises(UserError, match="auxiliary: expected a frozen denoiser, which lora does not go with"):
        denoiser.train_auxiliary(AuxiliarySettings(config=TINY))


def test_views_without_masks_are_refused():
    module = make_module(noise=UniformNoise())
    with pytest.raises(UserError, match="noise: expected views with masks to train an auxiliary model, got"):
        module.view_losses(make_batch(special=module.special), RowGenerator(0, [0, 1, 2]))


@pytest.mark.parametrize("missing", ["think.safetensors", "auxiliary.json", "model.safetensors"])
def test_a_damaged_folder_is_refused(tmp_path, missing):
    make_module().export(tmp_path / "model")
    (tmp_path / "model" / "auxiliary" / missing).unlink()
    with pytest.raises(UserError, match=r"pretrained: .*auxiliary"):
        load(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "auxiliary")
    assert load(tmp_path / "model").backbone.auxiliary is None


def test_deferred_weights_keep_the_auxiliary_model(tmp_path):
    module = make_module()
    module.export(tmp_path / "model")
    denoiser = Denoiser(pretrained=str(tmp_path / "model"), defer=True)
    denoiser.load_deferred(torch.device("cpu"))
    denoiser.save(tmp_path / "again", {})
    assert weights_hash(load(tmp_path / "again")) == weights_hash(module)


def test_a_stored_span_length_is_checked(tmp_path):
    make_module().export(tmp_path / "model")
    (tmp_path / "model" / "auxiliary" / "auxiliary.json").write_text(json.dumps({"span_length": 40}))
    with pytest.raises(UserError, match="span_length: expected 2 to 8 tokens, got 40"):
        load(tmp_path / "model")


def test_a_batch_without_masks_has_a_loss_of_zero_and_all_gradients():
    module = make_module(noise=MaskedNoise(level=0.0))
    (loss,) = module.view_losses(make_batch(special=module.special), RowGenerator(0, [0, 1, 2]))
    loss.total.backward()
    assert float(loss.total) == 0
    gradients = [parameter.grad for parameter in module.parameters() if parameter.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", ["mmd", "tsd", "stage_consistency", "soft_on_policy"])
def test_views_of_what_no_decoder_of_it_meets_are_refused(name):
    module = make_module(noise=NOISE.get(name)())
    with pytest.raises(UserError, match=r"^noise: expected views (of masks in the clean text|with masks)"):
        module.view_losses(make_batch(special=module.special), RowGenerator(0, [0, 1, 2]))


@pytest.mark.parametrize("callback", [NextTokenTraining(), BlockWarmup({0: 1, 100: 8})], ids=lambda c: type(c).__name__)
def test_callbacks_that_are_to_train_the_denoiser_are_refused(callback):
    trainer = L.Trainer(**QUIET, max_steps=1, callbacks=[callback])
    with pytest.raises(UserError, match=f"auxiliary: expected none with {type(callback).__name__}"):
        trainer.fit(make_module(), loader())


def test_the_frozen_denoiser_has_no_dropout():
    denoiser = make_denoiser(sharpen=3.0, attention_dropout=0.5)
    module = DMaxModule(denoiser, MaskedNoise(span_length=4), auxiliary=AuxiliarySettings(config=TINY), seed=0).train()
    assert denoiser.auxiliary.training
    assert not denoiser.model.training
    clean = make_batch(special=module.special)
    one, two = (module.view_losses(clean, RowGenerator(0, [0, 1, 2]))[0].total for _ in range(2))
    assert torch.equal(one, two)
