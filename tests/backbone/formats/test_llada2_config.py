import pytest

from dmaxlit import UserError
from dmaxlit.backbone.formats.llada2_config import from_glm, to_glm
from tests.backbone.formats.llada2_published import CONFIG

MINI = {
    **CONFIG,
    "num_hidden_layers": 20,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "moe_intermediate_size": 512,
    "num_experts_per_tok": 8,
    "num_attention_heads": 16,
    "num_experts": 256,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 157184,
    "rotary_dim": 64,
    "n_group": 8,
    "topk_group": 4,
    "max_position_embeddings": 16384,
    "pad_token_id": 156892,
}
FLASH = {
    **MINI,
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_attention_heads": 32,
    "model_type": "llada2_moe_veomni",
}


def test_the_configuration_of_mini_in_the_words_of_transformers():
    ours = to_glm(MINI, "mini")
    assert (ours.model_type, ours.n_routed_experts, ours.n_shared_experts) == ("glm4_moe", 256, 1)
    assert ours.rope_parameters == {"rope_type": "default", "rope_theta": 600000, "partial_rotary_factor": 0.5}
    assert (ours.norm_topk_prob, ours.routed_scaling_factor, ours.use_qk_norm) == (True, 2.5, True)
    assert (ours.n_group, ours.topk_group, ours.first_k_dense_replace) == (8, 4, 1)
    assert (ours.attention_bias, ours.rms_norm_eps, ours.head_dim) == (False, 1e-6, 128)
    assert (ours.vocab_size, ours.pad_token_id, ours.max_position_embeddings) == (157184, 156892, 16384)


@pytest.mark.parametrize("published", [MINI, FLASH, CONFIG], ids=["mini", "flash", "tiny"])
def test_there_and_back_every_field_is_the_same(published):
    assert list(from_glm(to_glm(published, "m"), "m").items()) == list(published.items())


def test_what_has_changed_since_is_said_in_published_words():
    ours = to_glm(MINI, "m")
    ours.vocab_size, ours.dtype = 157185, "float32"
    assert from_glm(ours, "m") == {**MINI, "vocab_size": 157185, "torch_dtype": "float32"}


def test_defaults_are_those_of_the_published_class():
    short = {name: value for name, value in CONFIG.items() if name not in ("rms_norm_eps", "rope_theta", "head_dim",
             "rotary_dim", "n_group", "topk_group", "routed_scaling_factor", "attention_dropout")}  # fmt: skip
    ours = to_glm(short, "m")
    assert (ours.rms_norm_eps, ours.rope_parameters["rope_theta"], ours.head_dim) == (1e-5, 10000.0, 8)
    assert (ours.n_group, ours.topk_group, ours.routed_scaling_factor, ours.attention_dropout) == (8, 4, 2.5, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new_idea": 1, "b": 2}, "expected only known fields of LLaDA2-MoE, got b, new_idea"),
        ({"use_bias": True}, "use_bias: expected False, got True"),
        ({"use_qk_norm": False}, "use_qk_norm: expected True, got False"),
        ({"score_function": "softmax"}, "score_function: expected 'sigmoid', got 'softmax'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling: expected None, got"),
        ({"router_dtype": "bf16"}, "router_dtype: expected 'fp32', got 'bf16'"),
        ({"norm_topk_prob": False}, "norm_topk_prob: expected True"),
        ({"use_sliding_window": True}, "use_sliding_window: expected False"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers: expected 0, got 1"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config: expected None"),
        ({"rotary_dim": 16}, r"rotary_dim: expected partial_rotary_factor \* head_dim = 8, got 16"),
        ({"n_group": 5}, "n_group: expected groups of at least 2 among 16 experts"),
        ({"topk_group": 9}, "n_group: expected groups"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok: expected at most what 2 groups hold, got 9"),
        ({"num_shared_experts": 0}, "num_shared_experts: expected at least 1, got 0"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_what_glm_cannot_express_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        to_glm({**CONFIG, **changes}, "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "message"),
    [("num_experts", "expected the field num_experts"), ("use_bias", "got True .what the published code takes")],
)
def test_a_field_that_must_be_there_is_missed(gone, message):
    with pytest.raises(UserError, match=message):
        to_glm({name: value for name, value in CONFIG.items() if name != gone}, "m")


def test_a_model_that_is_no_llada2_any_more_is_not_called_one():
    ours = to_glm(MINI, "m")
    ours.norm_topk_prob = False
    with pytest.raises(UserError, match="norm_topk_prob: expected what LLaDA2 had, True, got False"):
        from_glm(ours, "m")
