"""LLaDA2-MoE checkpoints as transformers' ``Glm4MoeForCausalLM``, whose mathematics is the same, in both directions.

Published naming, of ``inclusionAI/LLaDA2.0-mini``, ``-flash`` and ``Zigeng/DMax-*`` (h hidden size, d head size, H
heads, G key/value heads, E experts, f expert width):

=============================================== ===================================================
``model.word_embeddings.weight``                ``model.embed_tokens.weight``
``attention.query_key_value.weight``            ``self_attn.{q,k,v}_proj.weight``: (H + 2 G) d rows
``attention.dense.weight``                      ``self_attn.o_proj.weight``
``attention.{query,key}_layernorm.weight``      ``self_attn.{q,k}_norm.weight``
``mlp.gate.expert_bias``                        ``mlp.gate.e_score_correction_bias``
everything else                                 same name
=============================================== ===================================================

In files both store every expert separately (``mlp.experts.J.gate_proj.weight``, ``[f, h]``); in memory transformers
stacks them. The published trainer (dFactory on VeOmni, ``scripts/moe_convertor.py``) stacks them in files too, as
``mlp.experts.gate_proj`` and ``up_proj``, ``[E, f, h]``, and ``down_proj``, ``[E, h, f]``, without ``.weight``: this is
read as well. Nothing is computed in between, so a round trip is exact to the bit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, PreTrainedModel

from dmaxlit.backbone.formats.llada2_config import to_glm
from dmaxlit.backbone.formats.weight_files import LazyTensor, open_weights
from dmaxlit.errors import UserError

ROUTER_BIAS = (".mlp.gate.expert_bias", ".mlp.gate.e_score_correction_bias")
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class _Weight:
    """A published tensor, and the tensors of transformers that its rows are split into.

    Args:
        name: Published name.
        shape: Published shape.
        ours: Names in transformers with their number of rows, in order.
    """

    name: str
    shape: tuple[int, ...]
    ours: tuple[tuple[str, int], ...]


def _weights(config: Glm4MoeConfig) -> Iterator[_Weight]:
    """Yield every tensor of a model with separate experts, in order."""
    vocabulary, width = config.vocab_size, config.hidden_size
    yield _renamed("model.word_embeddings.weight", (vocabulary, width), "model.embed_tokens.weight")
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, f"model.layers.{layer}", dense=layer < config.first_k_dense_replace)
    yield _renamed("model.norm.weight", (width,))
    if not config.tie_word_embeddings:
        yield _renamed("lm_head.weight", (vocabulary, width))


def _layer(config: Glm4MoeConfig, name: str, dense: bool) -> Iterator[_Weight]:
    width, size = config.hidden_size, config.head_dim
    query, key = config.num_attention_heads * size, config.num_key_value_heads * size
    theirs, ours = f"{name}.attention", f"{name}.self_attn"
    yield _renamed(f"{name}.input_layernorm.weight", (width,))
    fused = tuple((f"{ours}.{kind}_proj.weight", rows) for kind, rows in (("q", query), ("k", key), ("v", key)))
    yield _Weight(f"{theirs}.query_key_value.weight", (query + 2 * key, width), fused)
    yield _renamed(f"{theirs}.query_layernorm.weight", (size,), f"{ours}.q_norm.weight")
    yield _renamed(f"{theirs}.key_layernorm.weight", (size,), f"{ours}.k_norm.weight")
    yield _renamed(f"{theirs}.dense.weight", (width, query), f"{ours}.o_proj.weight")
    yield _renamed(f"{name}.post_attention_layernorm.weight", (width,))
    if dense:
        yield from _mlp(f"{name}.mlp", width, config.intermediate_size)
        return
    experts, inner = config.n_routed_experts, config.moe_intermediate_size
    yield _renamed(f"{name}.mlp.gate.weight", (experts, width))
    yield _renamed(name + ROUTER_BIAS[0], (experts,), name + ROUTER_BIAS[1])
    for expert in range(experts):
        yield from _mlp(f"{name}.mlp.experts.{expert}", width, inner)
    yield from _mlp(f"{name}.mlp.shared_experts", width, inner * config.n_shared_experts)


def _mlp(name: str, width: int, inner: int) -> Iterator[_Weight]:
    for projection in _PROJECTIONS:
        shape = (width, inner) if projection == "down_proj" else (inner, width)
        yield _renamed(f"{name}.{projection}.weight", shape)


def _renamed(name: str, shape: tuple[int, ...], ours: str | None = None) -> _Weight:
    return _Weight(name, shape, ((ours or name, shape[0]),))


def as_glm(stored: Mapping[str, LazyTensor], config: Glm4MoeConfig, source: str) -> dict[str, LazyTensor]:
    """Return the tensors of a published checkpoint under the names of transformers; none is read.

    Args:
        stored: Tensors with separate or stacked experts.
        config: Its configuration, from :func:`~dmaxlit.backbone.formats.llada2_config.to_glm`.
        source: Their origin, for messages.

    Raises:
        UserError: If a tensor is missing, left over, or of another shape.
    """
    weights = list(_weights(config))
    separate = _with_separate_experts(stored, config)
    _compare({weight.name: weight.shape for weight in weights}, separate, source)
    out: dict[str, LazyTensor] = {}
    for weight in weights:
        start = 0
        for name, rows in weight.ours:
            whole = rows == weight.shape[0]
            out[name] = separate[weight.name] if whole else separate[weight.name].rows(start, start + rows)
            start += rows
    return out


def as_published(stored: Mapping[str, LazyTensor], config: Glm4MoeConfig, source: str) -> dict[str, LazyTensor]:
    """Return the tensors of a transformers checkpoint under their published names, experts separate; none is read.

    Args:
        stored: Tensors as ``save_pretrained`` writes them.
        config: The checkpoint's configuration.
        source: Their origin, for messages.

    Raises:
        UserError: If a tensor is missing, left over, or of another shape.
    """
    weights = list(_weights(config))
    shapes = {name: (rows, *weight.shape[1:]) for weight in weights for name, rows in weight.ours}
    _compare(shapes, stored, source)
    out: dict[str, LazyTensor] = {}
    for weight in weights:
        tensors = [stored[name] for name, _ in weight.ours]
        if len({tensor.dtype for tensor in tensors}) > 1:
            raise UserError(f"pretrained: {source!r}: expected {weight.ours[0][0]} and its siblings of one type")
        out[weight.name] = LazyTensor.joined(tensors)
    return out


def model_from_llada2(folder: Path, published: dict[str, Any], attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a published checkpoint; each tensor is read when the model's parameter is filled.

    Args:
        folder: The checkpoint.
        published: Its configuration.
        attention: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Type of the parameters. The router's bias stays float32 in transformers, and from 5.24 on so does its
            weight: the published gate computes in float32.

    Raises:
        UserError: If it is incomplete, damaged, or not an LLaDA2-MoE checkpoint.
    """
    source = str(folder)
    config = to_glm(published, source)
    tensors = as_glm(open_weights(folder), config, source)
    # transformers treats lazy tensors as it does slices of safetensors: it stacks the experts and fills the model.
    loaded: Any = Glm4MoeForCausalLM.from_pretrained(
        None, config=config, state_dict=tensors, attn_implementation=attention, dtype=dtype, output_loading_info=True
    )
    model, info = loaded
    assert not any(info.values()), f"the mapping covers every tensor: {info}"
    assert isinstance(model, PreTrainedModel), "transformers returns a model"
    return model


def _with_separate_experts(stored: Mapping[str, LazyTensor], config: Glm4MoeConfig) -> dict[str, LazyTensor]:
    """Return the tensors with stacked experts separated, and all others unchanged."""
    out = dict(stored)
    for layer in range(config.first_k_dense_replace, config.num_hidden_layers):
        for projection in _PROJECTIONS:
            name = f"model.layers.{layer}.mlp.experts"
            stacked = stored.get(f"{name}.{projection}")
            if stacked is None or len(stacked.shape) != 3 or stacked.shape[0] != config.n_routed_experts:
                continue  # tensors of another form are left over, and named in the refusal
            del out[f"{name}.{projection}"]
            out.update({f"{name}.{j}.{projection}.weight": stacked.row(j) for j in range(stacked.shape[0])})
    return out


def _compare(expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, LazyTensor], source: str) -> None:
    missing = [name for name in expected if name not in stored]
    left = [name for name in stored if name not in expected]
    if missing or left:
        kinds = ((missing, "missing"), (left, "left over"))
        counts = [f"{len(names)} {kind} (such as {names[0]})" for names, kind in kinds if names]
        raise UserError(f"pretrained: {source!r}: expected the weights of LLaDA2-MoE, got {' and '.join(counts)}")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise UserError(
                f"pretrained: {source!r}: {name}: expected shape {list(shape)}, got {list(stored[name].shape)}"
            )
