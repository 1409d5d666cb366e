"""``config.json`` of LLaDA2-MoE as transformers' ``Glm4MoeConfig``, and back.

The defaults are those of the published configuration class (``configuration_llada2_moe.py``), the meaning of a field is
that of the published modelling code. A field that is in none of the tables below is refused: it may change the model.

The published file is stored unchanged under ``llada2`` in ours, so that the conversion back restores every field.
"""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import Glm4MoeConfig

from dmaxlit.errors import UserError, reason_of

# The second is the published trainer's name of the same model; the tensors show whether its experts are stacked.
MODEL_TYPES = ("llada2_moe", "llada2_moe_veomni")

_REQUIRED = object()

# Published name: name in Glm4MoeConfig, and the published class's default (required where a guess would be a risk).
_MAPPED: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", _REQUIRED),
    "hidden_size": ("hidden_size", _REQUIRED),
    "intermediate_size": ("intermediate_size", _REQUIRED),
    "num_hidden_layers": ("num_hidden_layers", _REQUIRED),
    "num_attention_heads": ("num_attention_heads", _REQUIRED),
    "num_key_value_heads": ("num_key_value_heads", _REQUIRED),
    "head_dim": ("head_dim", None),  # hidden_size / num_attention_heads
    "hidden_act": ("hidden_act", "silu"),
    "max_position_embeddings": ("max_position_embeddings", 16384),
    "initializer_range": ("initializer_range", 0.02),
    "rms_norm_eps": ("rms_norm_eps", 1e-5),
    "attention_dropout": ("attention_dropout", 0.1),
    "tie_word_embeddings": ("tie_word_embeddings", False),
    "num_experts": ("n_routed_experts", _REQUIRED),
    "num_experts_per_tok": ("num_experts_per_tok", _REQUIRED),
    "num_shared_experts": ("n_shared_experts", _REQUIRED),
    "moe_intermediate_size": ("moe_intermediate_size", _REQUIRED),
    "first_k_dense_replace": ("first_k_dense_replace", _REQUIRED),
    "n_group": ("n_group", 8),
    "topk_group": ("topk_group", 4),
    "routed_scaling_factor": ("routed_scaling_factor", 2.5),
    "bos_token_id": ("bos_token_id", None),
    "eos_token_id": ("eos_token_id", None),
    "pad_token_id": ("pad_token_id", None),
}

# Rotary position embedding: two published fields, one mapping in transformers.
_ROTARY = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}

# Where Glm4Moe has no choice: the required value, and the published class's default.
_FIXED: dict[str, tuple[Any, Any]] = {
    "use_bias": (False, True),  # a bias of attention.dense
    "use_qkv_bias": (False, False),
    "use_qk_norm": (True, True),
    "norm_head": (False, False),
    "rope_scaling": (None, None),
    "use_sliding_window": (False, False),
    "norm_topk_prob": (True, True),  # not read by the published code, which always normalises
    "score_function": ("sigmoid", "sigmoid"),
    "router_dtype": ("fp32", "fp32"),
    "moe_router_enable_expert_bias": (True, True),
    "using_split_qkv_in_self_attention": (False, False),
    "use_rmsnorm": (True, True),
    "norm_softmax": (False, False),
    "num_nextn_predict_layers": (0, 0),
    "quantization_config": (None, None),
}

# Fields that change nothing that is computed.
_HARMLESS = {
    "model_type",
    "architectures",
    "auto_map",  # names remote code, which is never loaded
    "transformers_version",
    "_name_or_path",
    "use_cache",
    "output_router_logits",
    "sliding_window",  # of no effect without use_sliding_window
    "max_window_layers",
    "embedding_dropout",  # stored by the published class, applied nowhere
    "output_dropout",
    "torch_dtype",  # the type of the stored weights, also recorded in the files
    "dtype",
    "rotary_dim",  # checked against partial_rotary_factor
    "mask_token_id",  # compared with the tokenizer's when that is loaded
}


def came_from_llada2(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` belongs to a published LLaDA2-MoE, or to one in the form of transformers."""
    return config.get("model_type") in MODEL_TYPES or isinstance(config.get("llada2"), dict)


def to_glm(published: dict[str, Any], source: str) -> Glm4MoeConfig:
    """Return the configuration of the same model in transformers.

    Args:
        published: Content of the published ``config.json``.
        source: Its origin, for messages.

    Raises:
        UserError: If a field is not understood, missing, or has a value that Glm4Moe cannot express.
    """
    unknown = sorted(published.keys() - _MAPPED.keys() - _ROTARY.keys() - _FIXED.keys() - _HARMLESS)
    if unknown:
        raise _refusal(source, f"expected only known fields of LLaDA2-MoE, got {', '.join(unknown)}")
    missing = sorted(name for name, (_, default) in _MAPPED.items() if default is _REQUIRED and name not in published)
    if missing:
        raise _refusal(source, f"expected the field {missing[0]}, found none")
    for name, (expected, default) in _FIXED.items():
        if published.get(name, default) != expected:
            note = "" if name in published else " (what the published code takes where it is absent)"
            raise _refusal(source, f"{name}: expected {expected!r}, got {published.get(name, default)!r}{note}")
    settings = {ours: published.get(name, default) for name, (ours, default) in _MAPPED.items()}
    settings["head_dim"] = settings["head_dim"] or settings["hidden_size"] // settings["num_attention_heads"]
    _check_routing(settings, source)
    rotary = {name: published.get(name, default) for name, default in _ROTARY.items()}
    rotated = int(settings["head_dim"] * rotary["partial_rotary_factor"])
    if published.get("rotary_dim", rotated) != rotated:
        raise _refusal(
            source, f"rotary_dim: expected partial_rotary_factor * head_dim = {rotated}, got {published['rotary_dim']}"
        )
    try:
        ours = Glm4MoeConfig(
            **settings,
            rope_parameters={"rope_type": "default", **rotary},
            use_qk_norm=True,
            attention_bias=False,
            # The published code normalises the weights of the chosen experts if there are several.
            norm_topk_prob=settings["num_experts_per_tok"] > 1,
            num_mtp_layers=0,
            use_cache=True,
            dtype=published.get("torch_dtype", published.get("dtype")),
            architectures=["Glm4MoeForCausalLM"],
        )
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise _refusal(source, reason_of(error)) from error
    ours.llada2 = published
    return ours


def from_glm(config: Glm4MoeConfig, source: str) -> dict[str, Any]:
    """Return the published configuration of a model that came from one; only fields changed since then differ.

    Args:
        config: Ours, with ``llada2`` in it.
        source: Its origin, for messages.

    Raises:
        UserError: If the model did not come from LLaDA2, or has been changed into something it cannot be.
    """
    published = getattr(config, "llada2", None)
    if config.model_type != "glm4_moe" or not isinstance(published, dict):
        raise _refusal(source, f"expected a model that came from LLaDA2-MoE, got a {config.model_type}")
    origin = to_glm(published, source)
    mapped = {ours for ours, _ in _MAPPED.values()}
    for name in ("rope_parameters", "use_qk_norm", "attention_bias", "norm_topk_prob"):
        if getattr(config, name) != getattr(origin, name):
            raise _refusal(
                source, f"{name}: expected what LLaDA2 had, {getattr(origin, name)!r}, got {getattr(config, name)!r}"
            )
    changed = {ours: getattr(config, ours) for ours in mapped if getattr(config, ours) != getattr(origin, ours)}
    now = {name: changed[ours] for name, (ours, _) in _MAPPED.items() if ours in changed}
    if config.dtype != origin.dtype:
        now["dtype" if "dtype" in published else "torch_dtype"] = str(config.dtype).removeprefix("torch.")
    return {**published, **now}


def _check_routing(settings: dict[str, Any], source: str) -> None:
    experts, groups, per_token = settings["n_routed_experts"], settings["n_group"], settings["num_experts_per_tok"]
    if settings["n_shared_experts"] < 1:
        raise _refusal(source, f"num_shared_experts: expected at least 1, got {settings['n_shared_experts']}")
    if experts % groups or experts // groups < 2 or not 1 <= settings["topk_group"] <= groups:
        raise _refusal(
            source,
            f"n_group: expected groups of at least 2 among {experts} experts and topk_group of them,"
            f" got {groups} and {settings['topk_group']}",
        )
    if not 1 <= per_token <= experts // groups * settings["topk_group"]:
        raise _refusal(
            source, f"num_experts_per_tok: expected at most what {settings['topk_group']} groups hold, got {per_token}"
        )


def _refusal(source: str, what: str) -> UserError:
    return UserError(f"pretrained: config.json of {source!r}: {what}")
