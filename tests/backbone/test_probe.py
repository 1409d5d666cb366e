"""The behavioural probe: which models it refuses, for which property, and what it leaves as it was."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dmaxlit import UserError
from dmaxlit.backbone import Denoiser, compatibility, probe
from dmaxlit.backbone.probe import check_behavior
from tests.backbone.test_families import EAGER, FAMILIES, SIZES, checkpoint, plain_tokenizer
from tests.conftest import TINY, make_denoiser

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
BERT = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 35}
BART = {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
NEO = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 16,
    "max_position_embeddings": 64,
}
RWKV = {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}
OWN_LOGITS = "its logits are more than its output embedding"
ORDER = "depends on the order of the input"
REFUSED = {
    "gpt_neo": (NEO, "tokens do not attend to later tokens of their block"),
    "rwkv": (RWKV, "tokens that the mask hides change its output"),
    "bert": (BERT, OWN_LOGITS),
    "roberta": ({**BERT, "max_position_embeddings": 128}, OWN_LOGITS),
    "electra": ({**BERT, "embedding_size": 32}, OWN_LOGITS),
    "bart": (BART, ORDER),
    "mbart": (BART, ORDER),
    "pegasus": (BART, ORDER),
}


@pytest.fixture(autouse=True)
def forget():
    """Probe configurations again that have passed before."""
    probe._passed.clear()


def wide(denoiser, scale=0.3):
    """Draw larger weights, whose effects are as large as those of trained ones."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in denoiser.model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return denoiser


# ---- what is accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_in_every_type_fresh_and_with_large_weights(name, dtype):
    config = {**SIZES, **FAMILIES[name], "initializer_range": 0.02}
    attention = "eager" if name in EAGER else "sdpa"
    denoiser = Denoiser(
        config=config, tokenizer="chain", block_length=8, attn_implementation=attention, dtype=dtype, probe=False
    )
    check_behavior(denoiser)
    probe._passed.clear()
    check_behavior(wide(denoiser))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_routers_with_ties_raise_no_alarm(dtype):
    config = {**SIZES, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    denoiser = Denoiser(config=config, tokenizer="chain", block_length=8, dtype=dtype, probe=False)
    with torch.no_grad():
        for name, weight in denoiser.model.named_parameters():
            if "gate.weight" in name:
                weight.copy_(weight[:1].expand_as(weight))  # all experts tie
    check_behavior(denoiser)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_layers_that_start_as_the_identity_are_accepted(start):
    denoiser = make_denoiser()
    with torch.no_grad():
        for name, weight in denoiser.model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(start)
    probe._passed.clear()
    check_behavior(denoiser)


@pytest.mark.parametrize(("block_length", "max_length"), [(1, 2), (1, 4), (2, 5), (64, 64)])
def test_short_contexts_are_no_obstacle(block_length, max_length):
    Denoiser(config=TINY, tokenizer="chain", block_length=block_length, max_length=max_length)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_model_that_is_no_denoiser_is_refused_with_the_property_it_lacks(model_type):
    settings, lacking = REFUSED[model_type]
    options = {"tokenizer": "chain", "block_length": 8, "attn_implementation": "eager"}
    config = {"model_type": model_type, **settings}
    with pytest.raises(UserError, match=rf"got {model_type}: .*{lacking}.*; --probe false \(.*\) skips") as caught:
        Denoiser(config=config, **options)
    assert "\n" not in str(caught.value)
    Denoiser(config=config, **options, probe=False)


@pytest.mark.parametrize("is_fresh", [True, False])
def test_a_model_without_the_attention_is_refused_for_what_it_lacks_with_its_own(tmp_path, is_fresh):
    options = {"block_length": 8, "attn_implementation": "sdpa"}
    if is_fresh:
        options |= {"config": {"model_type": "gpt_neo", **NEO}, "tokenizer": "chain"}
    else:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neo", vocab_size=37, **NEO))
        model.save_pretrained(tmp_path)
        plain_tokenizer(tmp_path)
        options["pretrained"] = str(tmp_path)
    with pytest.raises(UserError, match=REFUSED["gpt_neo"][1]):
        Denoiser(**options)
    refusal = r"^attn_implementation: expected eager for GPTNeoForCausalLM, which has no other, got 'sdpa'$"
    with pytest.raises(UserError, match=refusal):
        Denoiser(**options, probe=False)


def sees_everything(allowed, positions, cache, ids):
    return torch.ones_like(allowed), positions, cache, ids


def stays_causal(allowed, positions, cache, ids):
    queries, keys = allowed.shape[1:]
    return allowed & torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries), positions, cache, ids


def sees_its_block_only(allowed, positions, cache, ids):
    queries, keys = allowed.shape[1:]
    blocks = torch.arange(keys) // 4
    return allowed & (blocks[keys - queries :, None] == blocks), positions, cache, ids


def counts_from_zero(allowed, positions, cache, ids):
    return allowed, torch.arange(positions.shape[1]).expand_as(positions), cache, ids


def has_no_positions(allowed, positions, cache, ids):
    return allowed, torch.zeros_like(positions), cache, ids


def stretches_with_the_longest(allowed, positions, cache, ids):
    return allowed, positions * (1 if positions.max() < 16 else 3), cache, ids


def forgets_the_cache(allowed, positions, cache, ids):
    return allowed[..., -positions.shape[1] :], positions, None, ids


def drifts_with_a_cache(allowed, positions, cache, ids):
    return allowed, positions + (0.0 if cache is None else 2e-3 * (positions >= 4)), cache, ids


def test_in_float32_a_small_difference_with_a_cache_is_no_rounding(monkeypatch):
    denoiser = make_denoiser()
    probe._passed.clear()
    compute, moved = denoiser.hidden, []
    distance = probe._distance

    def hidden(allowed, positions, cache=None, input_ids=None):
        return compute(*drifts_with_a_cache(allowed, positions, cache, input_ids))

    monkeypatch.setattr(wide(denoiser), "hidden", hidden)
    monkeypatch.setattr(probe, "_distance", lambda *states: moved.append(distance(*states)) or moved[-1])
    with pytest.raises(UserError, match="with a cache of keys and values is another"):
        check_behavior(denoiser)
    assert 1e-4 < moved[-1].median() < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (sees_everything, "tokens that the mask hides change its output"),
        (stays_causal, "tokens do not attend to later tokens of their block"),
        (sees_its_block_only, "tokens do not attend to earlier blocks"),
        (counts_from_zero, ORDER),
        (has_no_positions, "does not depend on position_ids"),
        (stretches_with_the_longest, "changes with what follows it, or with other rows"),
        (forgets_the_cache, "with a cache of keys and values is another"),
    ],
)
def test_each_property_is_named(monkeypatch, change, lacking, dtype):
    denoiser = wide(make_denoiser().to(getattr(torch, dtype)))
    probe._passed.clear()
    compute = denoiser.hidden

    def hidden(allowed, positions, cache=None, input_ids=None):
        allowed, positions, cache, input_ids = change(allowed, positions, cache, input_ids)
        return compute(allowed, positions, cache, input_ids)

    monkeypatch.setattr(denoiser, "hidden", hidden)
    with pytest.raises(UserError, match=lacking):
        check_behavior(denoiser)


def test_longrope_whose_frequencies_depend_on_the_longest_row_is_noticed(monkeypatch):
    monkeypatch.setattr(compatibility, "_longrope_length", lambda config: None)  # which refuses it by its config
    rope = {"rope_type": "longrope", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 32}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 40.0]}
    denoiser = Denoiser(config={**TINY, "rope_parameters": rope}, tokenizer="chain", block_length=8, probe=False)
    with pytest.raises(UserError, match="changes with what follows it, or with other rows"):
        check_behavior(wide(denoiser))


# ---- what it leaves as it was ---------------------------------------------------------------------------------------


def test_it_changes_neither_mode_nor_weights_nor_gradients_nor_random_state():
    denoiser = make_denoiser(attention_dropout=0.5)
    denoiser.model.base_model.layers[0].eval()
    modes = [module.training for module in denoiser.modules()]
    before = {name: weight.clone() for name, weight in denoiser.state_dict().items()}
    state = torch.get_rng_state()
    probe._passed.clear()
    check_behavior(denoiser)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in denoiser.modules()] == modes
    assert all(torch.equal(weight, before[name]) for name, weight in denoiser.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in denoiser.parameters())


def test_a_fresh_model_has_the_same_weights_with_and_without_it():
    weights = []
    for wanted in (True, False):
        torch.manual_seed(5)
        denoiser = Denoiser(config=TINY, tokenizer="chain", block_length=8, probe=wanted)
        weights.append([*denoiser.state_dict().values(), torch.rand(3)])
        assert denoiser.training
        assert denoiser.model.training
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


def count_forwards(monkeypatch):
    calls = []
    compute = Denoiser.hidden
    monkeypatch.setattr(Denoiser, "hidden", lambda *args, **named: calls.append(1) or compute(*args, **named))
    return calls


def test_it_computes_once_for_a_configuration_and_not_at_all_where_it_is_not_wanted(monkeypatch):
    calls = count_forwards(monkeypatch)
    Denoiser(config=TINY, tokenizer="chain", block_length=8, probe=False)
    assert not calls
    make_denoiser()
    first = len(calls)
    assert 1 <= first <= 9
    make_denoiser(seed=1)
    assert len(calls) == first
    make_denoiser(num_hidden_layers=3)
    assert len(calls) == 2 * first


def test_weights_that_are_read_later_are_probed_when_they_are_there(tmp_path, monkeypatch):
    source = checkpoint(tmp_path / "ar", rows=64, model_type="llama")
    calls = count_forwards(monkeypatch)
    denoiser = Denoiser(pretrained=source, block_length=8, defer=True)
    assert not calls
    denoiser.load_deferred(torch.device("cpu"))
    assert calls
    assert denoiser.model.training


def test_flex_attention_is_probed_in_another_form_and_kept():
    denoiser = make_denoiser(attn_implementation="flex_attention")
    assert probe._passed
    assert denoiser.model.config._attn_implementation == "flex_attention"


def test_running_out_of_memory_is_no_property_of_the_model(monkeypatch):
    denoiser = make_denoiser()
    probe._passed.clear()

    def hidden(*args, **named):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(denoiser, "hidden", hidden)
    with pytest.raises(torch.OutOfMemoryError):
        check_behavior(denoiser)
