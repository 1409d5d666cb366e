"""One test for each internal of transformers and huggingface_hub that dmaxlit uses; a failure names what changed."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    GPT2Config,
    MixtralConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    XGLMConfig,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging as transformers_logging

from dmaxlit import load
from dmaxlit.backbone import transformers_internals as internals

QWEN3 = Qwen3Config(
    hidden_size=8, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, vocab_size=11, head_dim=4
)
GPT2 = GPT2Config(n_embd=8, n_head=2, n_layer=2, vocab_size=11, n_positions=16)
GEMMA3 = Gemma3TextConfig(
    hidden_size=16, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1, vocab_size=11, head_dim=8
)
IDS = torch.tensor([[1, 2, 3]])
SDPA = ALL_ATTENTION_FUNCTIONS["sdpa"]
VERSION = f"transformers {transformers.__version__}"


def test_unread_settings():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(num_experts=2, num_hidden_layers=1))
    found = internals.unread_settings(model, ["head_dim", "typo", "rms_norm_eps", "num_experts_per_token"])
    assert found == ["num_experts_per_token", "typo"], f"{VERSION}: models read settings in another way"


def model_of(config):
    return AutoModelForCausalLM.from_config(copy.deepcopy(config))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.model_type)
def test_a_base_model_takes_its_cache_by_that_name_without_a_notice(config):
    base = model_of(config).base_model
    cache = DynamicCache()
    base(IDS, use_cache=True, **{internals.cache_argument(base): cache})
    assert cache.get_seq_length() == 3, f"{VERSION}: a base model's cache is not the argument cache_argument names"


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.model_type)
def test_every_layer_is_a_gradient_checkpointing_layer(config):
    layers = internals.decoder_layers(model_of(config))
    assert len(layers) == 2, f"{VERSION}: decoder layers are no longer GradientCheckpointingLayer"


def test_a_layer_is_marked_as_one_that_may_use_a_cache_while_it_is_recomputed():
    layers = internals.decoder_layers(model_of(QWEN3))
    assert [internals.cache_mark(layer) for layer in layers] == [False] * 2, (
        f"{VERSION}: GradientCheckpointingLayer has no _can_checkpoint_with_cache, or it is not False"
    )
    internals.set_cache_mark(layers[0], True)
    assert [internals.cache_mark(layer) for layer in layers] == [True, False]
    assert internals.cache_mark(nn.Linear(1, 1)) is None


def test_a_marked_layer_keeps_its_cache_while_it_is_recomputed():
    model = model_of(QWEN3).train()
    model.gradient_checkpointing_enable()
    base, lengths = model.base_model, []
    for allowed in (False, True):
        for layer in internals.decoder_layers(model):
            internals.set_cache_mark(layer, allowed)
        cache = DynamicCache()
        base(IDS, use_cache=False, **{internals.cache_argument(base): cache})
        lengths.append(cache.get_seq_length())
    assert lengths == [0, 3], f"{VERSION}: _can_checkpoint_with_cache no longer decides whether a layer gets the cache"


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_the_config_names_the_attention_implementation(name):
    model = AutoModelForCausalLM.from_config(copy.deepcopy(QWEN3), attn_implementation=name)
    assert internals.attention_of(model) == name, f"{VERSION}: config._attn_implementation is something else"


def test_a_model_computes_with_another_attention_inside_the_context_only():
    model = model_of(QWEN3)
    own = model.config._attn_implementation
    computed = []
    ALL_ATTENTION_FUNCTIONS.register("spy", lambda *args, **named: computed.append(1) or SDPA(*args, **named))
    with internals.computing_with(model, "spy"):
        model(IDS)
    assert computed, f"{VERSION}: config._attn_implementation is not read in every forward"
    assert model.config._attn_implementation == own


def test_a_model_computes_with_the_attention_that_is_put_into_its_config():
    model, calls = model_of(QWEN3), []

    def attention(module, query, key, value, mask, **kwargs):
        calls.append(query.shape)
        return query.transpose(1, 2).contiguous(), None

    internals.use_attention(model, "dmaxlit_test", attention)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    model.base_model(IDS, attention_mask=mask)
    assert len(calls) == 2, f"{VERSION}: a model does not read config._attn_implementation in its forward"


def test_an_embedding_that_scales_its_rows_names_the_factor():
    embedding = model_of(GEMMA3).get_input_embeddings()
    scale = internals.embedding_scale(embedding)
    assert scale == 4.0, f"{VERSION}: scalar_embed_scale of Gemma's embedding is gone or is not its scale"
    torch.testing.assert_close(embedding(IDS), scale * embedding.weight[IDS])
    assert internals.embedding_scale(model_of(QWEN3).get_input_embeddings()) == 1.0
    xglm = XGLMConfig(vocab_size=8, d_model=16, ffn_dim=8, num_layers=1, attention_heads=2)
    embedding = AutoModelForCausalLM.from_config(xglm).get_input_embeddings()
    scale = internals.embedding_scale(embedding)
    assert scale == 4.0, f"{VERSION}: embed_scale of XGLM's embedding is gone or is not its scale"
    torch.testing.assert_close(embedding(IDS), scale * embedding.weight[IDS])


@pytest.fixture
def folder(tmp_path):
    model = model_of(QWEN3)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def empty(**changes):
    config = copy.deepcopy(QWEN3)
    config.update(changes)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_the_loader_behind_from_pretrained_fills_a_model_on_the_meta_device(folder):
    path, model = folder
    loaded = empty()
    files = [str(path / "model.safetensors")]
    problems = internals.load_weight_slices(loaded, path, files, torch.device("cpu"))
    assert problems == [], f"{VERSION}: the loader misses weights that are there"
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), f"{VERSION}: the loader reads {name} differently"


def test_the_loader_names_what_is_missing_or_of_another_shape(folder):
    path, _ = folder
    files = [str(path / "model.safetensors")]
    problems = internals.load_weight_slices(
        empty(num_hidden_layers=3, vocab_size=12, layer_types=["full_attention"] * 3), path, files, torch.device("cpu")
    )
    misshaped = [problem for problem in problems if problem.startswith("('model.embed_tokens.weight', torch.Size([11")]
    assert len(misshaped) == 1, f"{VERSION}: mismatched_keys of the loader have changed"
    assert "model.layers.2.mlp.up_proj.weight" in problems, f"{VERSION}: missing_keys of the loader have changed"


def test_sizes_are_read_as_save_pretrained_reads_them():
    assert internals.parse_size("5GB") == 5 * 10**9, "huggingface_hub.serialization._base.parse_size_to_int has changed"
    with pytest.raises((ValueError, IndexError)):
        internals.parse_size("lots")


@pytest.mark.parametrize("enabled", [True, False])
def test_bars_are_what_they_were_before(enabled):
    before = transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if enabled else transformers_logging.disable_progress_bar)()
    try:
        with internals.without_progress_bars():
            assert not transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.is_progress_bar_enabled() == enabled
    finally:
        (transformers_logging.enable_progress_bar if before else transformers_logging.disable_progress_bar)()


def test_a_model_is_loaded_and_exported_without_a_bar(tmp_path, capfd):
    load("builtin:chain-base").export(tmp_path / "model")
    assert capfd.readouterr().err == ""


def test_a_model_made_of_its_own_tensors_is_saved_with_a_tensor_for_each_expert(tmp_path):
    config = MixtralConfig(
        hidden_size=8, intermediate_size=8, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1,
        vocab_size=11, num_local_experts=2,
    )  # fmt: skip
    model = model_of(config)
    again = type(model).from_pretrained(None, config=config, state_dict=model.state_dict())
    internals.save_in_stored_form(again)
    model.save_pretrained(tmp_path / "model")
    again.save_pretrained(tmp_path / "again")
    expected, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "again"))
    assert expected.keys() == saved.keys(), f"{VERSION}: save_in_stored_form has no effect"
    assert any("experts.0." in name for name in saved)
