"""The memory of activations, by running the model's shapes on the meta device."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import Cache

from dmaxlit.backbone.activation_checkpointing import supports_cache_under_checkpointing
from dmaxlit.backbone.attention import to_model_mask
from dmaxlit.backbone.cache import CleanCache
from dmaxlit.backbone.hidden_matrices import expert_modules
from dmaxlit.backbone.torch_internals import MetaGroupedProducts, storage_id
from dmaxlit.backbone.transformers_internals import attention_of, cache_argument, decoder_layers, use_attention
from dmaxlit.training.memory_scenario import MemoryScenario, keys_and_values, kv_heads

_FUSED = "dmaxlit_plan"


def saved_bytes(run: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Return the bytes that autograd keeps for the backward pass of ``run``'s result; works on the meta device.

    Args:
        run: Computes the result.
        parameters: Tensors that are not counted.
    """
    known = {storage_id(parameter) for parameter in parameters}
    saved: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        if storage_id(tensor) not in known:
            # The tensor is kept, so that its address is not used again.
            saved[storage_id(tensor)] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    size = sum(size for size, _ in saved.values())
    del result
    return size


def activation_bytes(scenario: MemoryScenario) -> int:
    """Return the bytes kept between forward and backward pass, all passes together, but for the clean copy's cache.

    All are taken to be in the compute type, but for those of :func:`uncast_experts`. (Autocast keeps the residual
    stream in float32, so a model that is not sharded keeps up to half as much again.)
    """
    hidden, length, views = int(scenario.model.config.hidden_size), scenario.length, scenario.views
    tokens = scenario.rows * length
    if scenario.checkpointing:
        layers, states = len(decoder_layers(scenario.model)), tokens * hidden * scenario.compute_dtype.itemsize
        if not scenario.clean_copy:
            return views * layers * states + _pass(scenario, length, length) // layers
        if supports_cache_under_checkpointing(scenario.model):
            return (1 + views) * layers * states + _pass(scenario, length, 2 * length) // layers
        return views * layers * 2 * states + _pass(scenario, 2 * length, 2 * length) // layers
    clean = _pass(scenario, length, length)
    if not scenario.clean_copy:
        return views * clean
    if kv_heads(scenario.model.config) == scenario.model.config.num_attention_heads:
        clean -= keys_and_values(scenario, tokens)  # the same tensors; otherwise attention keeps them expanded
    return clean + views * _pass(scenario, length, 2 * length)


def has_cache(scenario: MemoryScenario) -> bool:
    """Return whether views read the clean copy's keys and values, and are not computed together with it."""
    can = not scenario.checkpointing or supports_cache_under_checkpointing(scenario.model)
    return scenario.clean_copy and can


def trained_passes(scenario: MemoryScenario) -> int:
    """Return how many passes of a micro-batch have a backward pass: the clean copy and each view, or each with both."""
    return scenario.views + has_cache(scenario)


def uncast_experts(scenario: MemoryScenario, module: nn.Module) -> list[nn.Module]:
    """Return the experts in a module that compute in their weights' type: autocast knows no grouped products.

    Args:
        scenario: The training run; shared weights (FSDP2) are gathered in the compute type.
        module: The model or a layer.
    """
    if scenario.sharded or scenario.model.get_experts_implementation()[""] != "grouped_mm":
        return []
    return [experts for experts, _ in expert_modules(module) if not isinstance(experts, nn.ModuleList)]


def _pass(scenario: MemoryScenario, queries: int, keys: int) -> int:
    """Measure the bytes that one pass keeps, on the meta device; ``keys - queries`` come from an earlier pass."""
    device, dtype = torch.device("meta"), scenario.compute_dtype
    attention = attention_of(scenario.model)
    model: Any = copy.deepcopy(scenario.model)
    if scenario.casts_weights:
        own = uncast_experts(scenario, model)
        types = [next(experts.parameters()).dtype for experts in own]
        model.to(dtype)
        for experts, of_weights in zip(own, types, strict=True):
            experts.to(of_weights)
    if attention == "sdpa":  # on meta it would be decomposed into steps, which no GPU does
        use_attention(model, _FUSED, _fused_attention)
    embeds = torch.empty(scenario.rows, queries, int(model.config.hidden_size), device=device, dtype=dtype)
    embeds.requires_grad_()
    positions = torch.empty(scenario.rows, queries, dtype=torch.long, device=device)
    cache: Cache | None = None

    def run(num_keys: int) -> Callable[[], Tensor]:
        allowed = torch.empty(scenario.rows, queries, num_keys, dtype=torch.bool, device=device)
        mask = to_model_mask(allowed, attention, dtype)

        def forward() -> Tensor:
            output: Tensor = model.base_model(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions,
                use_cache=cache is not None,
                **{cache_argument(model.base_model): cache},
            ).last_hidden_state
            return output

        return forward

    with MetaGroupedProducts():  # type: ignore[no-untyped-call]
        if keys != queries:
            cache = clean = CleanCache()
            run(queries)()
            cache = clean.view_cache()
        return saved_bytes(run(keys), model.parameters())


class _FusedAttention(torch.autograd.Function):
    """Saves what fused kernels save: queries, keys, values, output, one number a query, and the mask as a bias."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]), mask.to(query.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError


def _fused_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    keys, values = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    out: Tensor = _FusedAttention.apply(query, keys, values, attention_mask)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None
