"""Families of decoder-only models, each as a tiny random checkpoint written by the test."""

import copy
import json

import lightning as L
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.mask_embedding import init_mask_embedding, is_vanishing
from dmaxlit.decoding import make_decoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.tasks import TASKS
from tests.conftest import make_batch
from tests.test_module import QUIET, assert_same_weights, loader

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 35,
    "bos_token_id": None,
    "eos_token_id": 36,
}
# Settings in which each differs; a window as long as the context hides nothing.
FAMILIES = {
    "llama": {"model_type": "llama"},
    "mistral": {"model_type": "mistral", "sliding_window": 64},
    "qwen2": {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 8, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0]},
    "gemma": {"model_type": "gemma", "head_dim": 16},
    "gemma2": {"model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "gemma3": {"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "olmo": {"model_type": "olmo"},
    "olmo2": {"model_type": "olmo2"},
}
EAGER = {"gemma2"}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}


def plain_tokenizer(folder):
    """Return the chain task's tokenizer without its mask token: 37 tokens, as of an autoregressive model."""
    TASKS.get("chain").tokenizer().save_pretrained(folder)
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["id"] < 37]
    settings["model"]["vocab"] = {word: i for word, i in settings["model"]["vocab"].items() if i < 37}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    del tokenizer_config["mask_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))


def checkpoint(folder, rows=37, **settings):
    """Write a random autoregressive checkpoint."""
    options = {**SIZES, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(options.pop("model_type"), vocab_size=rows, **options), dtype=torch.float32
        )
    model.save_pretrained(folder)
    plain_tokenizer(folder)
    return str(folder)


def test_a_fresh_model_takes_settings_that_its_code_reads_though_its_config_does_not_declare_them(tmp_path):
    torch.manual_seed(0)
    config = {**SIZES, "model_type": "qwen3_moe", **EXPERTS, "rope_theta": 100.0}
    module = DMaxModule(Denoiser(config=config, tokenizer="chain", block_length=8)).eval()
    layer = module.backbone.model.model.layers[0]
    assert layer.self_attn.q_proj.weight.shape == (2 * 8, 32)  # not the heads' share of the width, 16
    assert layer.mlp.experts.gate_up_proj.shape == (4, 2 * 16, 32)
    assert module.backbone.model.config.rope_parameters["rope_theta"] == 100.0
    module.export(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert_same_weights(module, loaded)
    one, other = (model.generate("3 ?", max_new_tokens=8)[0].token_ids for model in (module, loaded))
    assert one == other


@pytest.mark.parametrize(
    ("model_type", "unknown"),
    [("qwen3_moe", {"num_expert": 4, "hiden_size": 8}), ("llama", {"num_experts": 4}), ("qwen3", {"n_layer": 2})],
)
def test_settings_that_nothing_reads_are_refused_by_name(model_type, unknown):
    with pytest.raises(UserError, match=f"^backbone.config: {model_type} has no setting {', '.join(sorted(unknown))}$"):
        Denoiser(config={**SIZES, "model_type": model_type, **unknown}, tokenizer="chain", block_length=8)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """Return the checkpoint and the denoiser of a family."""
    source = checkpoint(tmp_path_factory.mktemp(request.param) / "ar", **FAMILIES[request.param])
    attention = "eager" if request.param in EAGER else "sdpa"
    return source, Denoiser(pretrained=source, block_length=8, attn_implementation=attention)


def hidden_of(denoiser, clean):
    """Compute the hidden states of the clean copy: blocks attend to themselves and to earlier ones."""
    positions = torch.arange(clean.ids.shape[1]).expand_as(clean.ids)
    blocks = clean.blocks
    allowed = (blocks[:, None] >= blocks).expand(len(clean.ids), -1, -1)
    with torch.no_grad():
        return denoiser.hidden(allowed, positions, input_ids=clean.ids)


def test_the_checkpoint_gets_a_mask_token_and_a_row_for_it(family):
    source, denoiser = family
    assert AutoTokenizer.from_pretrained(source).mask_token is None
    assert denoiser.special.mask_id == 37
    table = denoiser.embedding.detach()
    assert len(table) == 38
    others = table[:37]
    torch.testing.assert_close(table[37].norm(), others.norm(dim=-1).mean())
    assert torch.cosine_similarity(table[37], others.mean(0), dim=0) > 0.9999
    original = AutoModelForCausalLM.from_pretrained(source).get_input_embeddings().weight
    assert torch.equal(others, original)


def test_attention_is_bidirectional_in_a_block_and_causal_between_blocks(family):
    _, denoiser = family
    denoiser.eval()
    clean = make_batch(special=denoiser.special)
    changed = copy.deepcopy(clean)
    changed.ids[0, 14] = (clean.ids[0, 14] + 1) % 35  # second block of three
    before, after = hidden_of(denoiser, clean)[0], hidden_of(denoiser, changed)[0]
    moved = (before - after).abs().amax(-1)
    assert (moved[:8] == 0).all()
    assert (moved[8:14] > 1e-6).all(), "a later token of the block moves an earlier one"
    assert (moved[16:] > 1e-6).any()


def test_logits_are_the_model_s_own_where_nothing_but_blocks_of_one_is_asked(family):
    source, _ = family
    theirs = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    ours = Denoiser(pretrained=source, block_length=1, attn_implementation="eager").eval()
    clean = make_batch(block_length=1, special=ours.special)
    clean.roles[:] = 2
    ids = clean.ids.clamp(max=36)
    with torch.no_grad():
        expected = theirs(ids).logits
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        causal = torch.ones(len(ids), ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        logits = ours.logits(ours.hidden(causal, positions, inputs_embeds=ours.embed(ids)))
    torch.testing.assert_close(logits[..., :37], expected, atol=2e-5, rtol=1e-4)
    assert (logits[..., 37] == -torch.inf).all()


@pytest.mark.parametrize("name", ["threshold", "spd"])
def test_cached_decoding_is_uncached_decoding(family, name):
    _, denoiser = family
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3, 5, 8, 9], list(range(17))]
    answers = [
        [row.token_ids for row in BlockDecoder(denoiser, make_decoder(name), 3, use_cache=cache).decode(prompts, 20)]
        for cache in (True, False)
    ]
    assert answers[0] == answers[1]


def test_it_trains_exports_and_reads_back(family, tmp_path):
    _, denoiser = family
    module = DMaxModule(copy.deepcopy(denoiser).train(), "on_policy")
    L.Trainer(**QUIET, max_steps=1).fit(module, loader())
    mask = denoiser.special.mask_id
    assert not torch.equal(module.backbone.embedding[mask], denoiser.embedding[mask]), "the mask embedding learns"
    module.export(tmp_path / "m")
    again = load(tmp_path / "m", attn_implementation=str(denoiser.model.config._attn_implementation))
    assert_same_weights(module, again)
    clean = make_batch(special=denoiser.special)
    module.eval()
    torch.testing.assert_close(hidden_of(again.backbone, clean), hidden_of(module.backbone, clean))


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"model_type": "mistral", "sliding_window": 32}, {}, "max_length: expected at most 32, the sliding window"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
            {},
            "most 32",
        ),
        ({"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 16}, {}, "most 16"),
        ({"model_type": "gemma2", "head_dim": 16, "sliding_window": 64}, {}, "attn_implementation: expected eager"),
        ({"model_type": "granite", "logits_scaling": 8.0}, {}, "rescales its logits"),
        ({"model_type": "llama"}, {"max_length": 7}, "block_length: expected at most the 7 positions"),
    ],
    ids=["mistral", "qwen2", "gemma3", "gemma2", "granite", "too short"],
)
def test_a_model_that_would_be_silently_wrong_is_refused(tmp_path, settings, options, message):
    source = checkpoint(tmp_path / "ar", **settings)
    with pytest.raises(UserError, match=message) as caught:
        Denoiser(pretrained=source, block_length=8, **options)
    assert "\n" not in str(caught.value)


def test_a_window_is_no_obstacle_to_sequences_that_fit_into_it(tmp_path):
    source = checkpoint(tmp_path / "ar", model_type="mistral", sliding_window=32)
    denoiser = Denoiser(pretrained=source, block_length=8, max_length=37)
    assert denoiser.max_length == 32
    DMaxModule(denoiser).export(tmp_path / "m")
    assert load(tmp_path / "m").backbone.max_length == 32, "an export remembers"


# ---- the mask embedding ---------------------------------------------------------------------------------------------


def test_a_row_the_table_has_already_is_used_but_not_as_it_is(tmp_path):
    # As Qwen's: more rows than tokens, the rest never trained.
    denoiser = Denoiser(pretrained=checkpoint(tmp_path / "ar", rows=64, model_type="llama"), block_length=8)
    table = denoiser.embedding.detach()
    assert table.shape[0] == 64
    torch.testing.assert_close(table[37].norm(), table[:37].norm(dim=-1).mean())


@pytest.mark.parametrize(("factor", "is_unchanged"), [(1e-4, False), (0.5, True)])
def test_a_vanishing_mask_embedding_of_another_s_checkpoint_is_replaced(tmp_path, factor, is_unchanged):
    folder = tmp_path / "ar"
    checkpoint(folder, rows=38, model_type="llama")
    TASKS.get("chain").tokenizer().save_pretrained(folder)  # with the mask token
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[37] *= factor
    model.save_pretrained(folder)
    denoiser = Denoiser(pretrained=str(folder), block_length=8)
    assert torch.equal(denoiser.embedding[37], model.get_input_embeddings().weight[37]) == is_unchanged
    assert not is_vanishing(denoiser.model.get_input_embeddings(), 37, 38)


def test_rows_are_written_in_the_table_s_type_and_nowhere_else():
    table = torch.nn.Embedding(10, 4, dtype=torch.bfloat16)
    before = table.weight.detach().clone()
    init_mask_embedding(table, [7, 9], 8)
    same = (table.weight == before).all(-1)
    assert same.tolist() == [True] * 7 + [False, True, False]
    trained = before[:7].double()
    expected = trained.sum(0) / trained.sum(0).norm() * trained.norm(dim=-1).mean()
    torch.testing.assert_close(table.weight[9].double(), expected, atol=1e-2, rtol=1e-2)
