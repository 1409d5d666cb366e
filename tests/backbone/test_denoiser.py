import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from dmaxlit import UserError
from dmaxlit.backbone import Denoiser, TrainingForward
from dmaxlit.noise import MaskedNoise, OnPolicyNoise
from dmaxlit.tokens import Role, SoftTokens
from tests.conftest import TINY, make_batch, make_denoiser
from tests.noise.test_contract import converse


def view_of(clean, level=0.6):
    return converse(MaskedNoise(level=level), clean)[0].ids


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_cached_clean_half_equals_the_doubled_sequence(attention, clean):
    denoiser = make_denoiser(attn_implementation=attention)
    view = view_of(clean)
    cached = TrainingForward(denoiser, clean)(view)
    doubled = TrainingForward(denoiser, clean, doubled=True)(view)
    torch.testing.assert_close(cached[clean.response], doubled[clean.response], atol=2e-6, rtol=1e-5)


def test_mixtures_are_fed_in_both_forms_and_a_mixture_of_one_token_is_that_token(denoiser, clean):
    view = view_of(clean)
    other = torch.stack([view, torch.full_like(view, clean.special.mask_id)], -1)
    half, one = torch.full(other.shape, 0.5), torch.tensor([1.0, 0.0]).expand(other.shape)
    forward, doubled = TrainingForward(denoiser, clean), TrainingForward(denoiser, clean, doubled=True)
    at = clean.response
    mixed = forward(view, SoftTokens(other, half, at))
    same = forward(view, SoftTokens(other, one, at))
    plain = forward(view)
    torch.testing.assert_close(same, plain, atol=2e-6, rtol=1e-5)
    assert (mixed - plain)[at].abs().max() > 1e-2
    again = doubled(view, SoftTokens(other, half, at))
    torch.testing.assert_close(again[at], mixed[at], atol=2e-6, rtol=1e-5)


def test_a_view_does_not_disturb_the_clean_half(denoiser, clean):
    forward = TrainingForward(denoiser, clean)
    first = forward(view_of(clean))
    forward(view_of(clean, 1.0))
    assert torch.equal(first, forward(view_of(clean)))


@pytest.mark.parametrize("doubled", [False, True])
def test_states_of_some_positions_are_those_of_all_and_have_the_same_gradients(doubled, clean):
    denoiser, view = make_denoiser(), view_of(clean)
    at = clean.response & (torch.rand(view.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    weight = torch.randn(int(at.sum()), denoiser.embedding.shape[1], generator=torch.Generator().manual_seed(1))
    found = []
    for states in (
        TrainingForward(denoiser, clean, doubled)(view)[at],
        TrainingForward(denoiser, clean, doubled)(view, at=at),
    ):
        trained = [p for p in denoiser.model.base_model.parameters() if p.requires_grad]
        found.append((states, *torch.autograd.grad((weight * states).sum(), trained)))
    for every, some in zip(*found, strict=True):
        assert torch.equal(every, some)


def test_a_subclass_that_embeds_or_scores_otherwise_is_asked(clean):
    class Doubled(Denoiser):
        def embed(self, ids):
            return 2 * super().embed(ids)

        def logits(self, hidden):
            return 2 * super().logits(hidden)

    plain = make_denoiser()
    doubled = Doubled.__new__(Doubled)
    doubled.__dict__ = dict(plain.__dict__)
    ids = clean.ids
    states = plain.embed(ids)
    assert torch.equal(doubled.embedder()(ids), 2 * states)
    assert torch.equal(doubled.scorer()(states), 2 * plain.scorer()(states))


def test_sdpa_equals_eager(clean):
    view = view_of(clean)
    one, two = (make_denoiser(attn_implementation=name) for name in ("sdpa", "eager"))
    a, b = (TrainingForward(d, clean)(view) for d in (one, two))
    torch.testing.assert_close(a[clean.response], b[clean.response], atol=2e-6, rtol=1e-5)


def test_padding_changes_nothing(denoiser, clean):
    wide = make_batch((3, 10, 8, 1), (13, 6, 16, 63))
    ids = torch.full_like(wide.ids[:3], clean.special.pad_id)
    ids[:, : clean.ids.shape[1]] = clean.ids
    roles = torch.full_like(ids, Role.PAD)
    roles[:, : clean.ids.shape[1]] = clean.roles
    padded = type(clean)(ids, roles, 8, clean.special)
    view = view_of(clean)
    wide_view = ids.clone()
    wide_view[:, : view.shape[1]] = view
    narrow = TrainingForward(denoiser, clean)(view)[clean.response]
    torch.testing.assert_close(
        TrainingForward(denoiser, padded)(wide_view)[padded.response], narrow, atol=2e-6, rtol=1e-5
    )


def test_later_blocks_never_reach_earlier_ones(denoiser, clean):
    changed = type(clean)(clean.ids.clone(), clean.roles, 8, clean.special)
    changed.ids[:, 16:] = (changed.ids[:, 16:] + 1) % 30
    view = view_of(clean)
    a = TrainingForward(denoiser, clean)(view)
    b = TrainingForward(denoiser, changed)(view)
    assert torch.equal(a[:, :16], b[:, :16])
    assert torch.equal(a[:, 16:24], b[:, 16:24])  # the noisy half sees only its own noisy block and earlier clean ones


def test_the_clean_tokens_of_a_block_are_hidden_from_its_own_noisy_half(denoiser, clean):
    changed = type(clean)(clean.ids.clone(), clean.roles, 8, clean.special)
    changed.ids[:, 8:16] = (changed.ids[:, 8:16] + 1) % 30
    view = view_of(clean, 1.0)
    a = TrainingForward(denoiser, clean)(view)
    b = TrainingForward(denoiser, changed)(view)
    assert torch.equal(a[:, :16], b[:, :16])
    assert not torch.equal(a[:, 16:], b[:, 16:])


def test_gradients_of_the_two_forms_agree(clean):
    from dmaxlit.module import DMaxModule
    from dmaxlit.randomness import RowGenerator
    from dmaxlit.training.losses import view_loss

    gradients = []
    for form in ("cached", "doubled"):
        module = DMaxModule(make_denoiser(), OnPolicyNoise(rollout="argmax"), clean_half=form)
        losses = module.view_losses(clean, RowGenerator(0, [0, 1, 2]))
        assert [loss.name for loss in losses] == ["masked", "predicted"]
        torch.stack([loss.total for loss in losses]).sum().backward()
        gradients.append([p.grad for p in module.parameters()])
    assert view_loss.__doc__
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4)


def test_layers_that_cannot_be_computed_again_with_a_cache_take_the_doubled_path_and_agree(denoiser, clean):
    view = view_of(clean)
    expected = TrainingForward(denoiser, clean)(view)[clean.response]
    denoiser.train()
    denoiser.model.gradient_checkpointing_enable()  # not ours: nobody has said that the cache bears it
    forward = TrainingForward(denoiser, clean)
    assert not forward.is_cached
    torch.testing.assert_close(forward(view)[clean.response], expected, atol=2e-6, rtol=1e-5)


def test_the_mask_token_is_never_predicted(denoiser):
    logits = denoiser.logits(torch.randn(4, 32))
    assert (logits[:, denoiser.special.mask_id] == -torch.inf).all()
    assert logits.softmax(-1).isfinite().all()


def test_a_saved_folder_reads_back_here_and_in_transformers(tmp_path, denoiser):
    denoiser.save(tmp_path / "m", {"task": None})
    again = Denoiser(pretrained=str(tmp_path / "m"))
    assert again.block_length == 8
    assert len(again.tokenizer) == len(denoiser.tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    ids = torch.randint(0, 30, (1, 12))
    for model in (again.model, theirs):
        torch.testing.assert_close(model(ids).logits, denoiser.model(ids).logits)


def test_a_tokenizer_without_a_mask_token_gets_one_and_the_embedding_grows(tmp_path, denoiser):
    denoiser.save(tmp_path / "m", {})
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    del settings["mask_token"]
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    again = Denoiser(pretrained=str(tmp_path / "m"))
    assert again.tokenizer.mask_token == "<|mask|>"
    assert again.special.mask_id == len(denoiser.tokenizer)
    assert again.embedding.shape[0] == len(denoiser.tokenizer) + 1
    assert again.embedding.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected either pretrained or config, got neither"),
        ({"config": TINY}, "backbone.tokenizer: expected"),
        ({"config": TINY, "tokenizer": "chain", "block_length": 129}, "block_length: expected at most"),
        ({"config": TINY, "tokenizer": "chain", "block_length": -1}, "block_length: expected at least 1"),
        ({"config": {}, "tokenizer": "chain"}, "expected a model_type"),
        ({"config": {"model_type": "qwen99"}, "tokenizer": "chain"}, "qwen99"),
        ({"config": {**TINY, "hiden_size": 3}, "tokenizer": "chain"}, "hiden_size"),
        ({"config": {**TINY, "vocab_size": 3}, "tokenizer": "chain"}, "vocab_size"),
        ({"config": TINY, "tokenizer": "chain", "attn_implementation": "flash"}, "attn_implementation"),
        ({"pretrained": "builtin:nothing"}, "unknown built-in model 'nothing'"),
        ({"pretrained": "./nowhere"}, "no such folder"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Denoiser(**settings)
    assert "\n" not in str(caught.value)


def test_a_backbone_that_would_be_silently_wrong_is_refused():
    config = {"model_type": "gemma3_text", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with pytest.raises(UserError, match="the sliding window of gemma3_text"):
        Denoiser(config={**config, "intermediate_size": 32, "num_key_value_heads": 1}, tokenizer="chain")


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_checkpoint_is_refused(tmp_path, denoiser, damage):
    denoiser.save(tmp_path / "m", {})
    weights = tmp_path / "m" / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    with pytest.raises(UserError, match=r"pretrained: (.* it may be truncated|expected model.safetensors)"):
        Denoiser(pretrained=str(tmp_path / "m"))


def test_saving_replaces_an_export_but_nothing_else(tmp_path, denoiser):
    denoiser.save(tmp_path / "m", {"task": None})
    denoiser.save(tmp_path / "m", {"task": {"name": "chain", "options": {}}})
    assert json.loads((tmp_path / "m" / "dmaxlit.json").read_text())["task"]["name"] == "chain"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="expected a new folder"):
        denoiser.save(tmp_path / "other", {})
    assert (tmp_path / "other" / "thesis.tex").read_text() == "..."
