"""Estimate the memory that a training run needs on each GPU, from shapes alone: no weights are loaded."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer
from transformers import Cache

from dmaxlit.backbone.activation_checkpointing import supports_cache_under_checkpointing
from dmaxlit.backbone.attention import to_model_mask
from dmaxlit.backbone.cache import CleanCache
from dmaxlit.backbone.frozen_features import first_layers
from dmaxlit.backbone.hidden_matrices import copy_mark, mark_hidden_matrices
from dmaxlit.backbone.torch_internals import storage_id
from dmaxlit.backbone.transformers_internals import attention_of, cache_argument, decoder_layers, use_attention
from dmaxlit.training.chunked_logits import chunk_size
from dmaxlit.training.memory_scenario import MemoryItem, MemoryScenario

_FUSED = "dmaxlit_plan"
_KEPT_OF_DIVERGENCE = 6  # float32 numbers for each logit, beside the log-probability that a cross-entropy keeps


def plan(scenario: MemoryScenario) -> list[MemoryItem]:
    """Return everything a GPU holds.

    Training holds the ``always`` and ``training`` lines at its peak, decoding the ``always`` and ``decoding`` lines.
    """
    model = scenario.model
    mark_hidden_matrices(model)
    named = [*model.named_parameters(), *((f"extra.{number}", p) for number, p in enumerate(scenario.extra))]
    parameters = [parameter for _, parameter in named]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    shards = scenario.gpus if scenario.sharded else 1
    fraction = f", 1/{shards} of it" if shards > 1 else ""
    count = sum(parameter.numel() for parameter in parameters)
    state = optimizer_bytes(scenario.optimizer, [pair for pair in named if pair[1].requires_grad])
    of_trained = f"of {_millions(trained)} trained{fraction}"
    items = [
        MemoryItem(
            "parameters",
            -(-bytes_of(parameters) // shards),
            "always",
            f"{count / 1e6:,.1f}M of {model.dtype}{fraction}",
        ),
        MemoryItem("gradients", -(-bytes_of(trained) // shards), "training", of_trained),
        MemoryItem("optimiser state", -(-state // shards), "always", of_trained),
    ]
    width = scenario.compute_dtype.itemsize
    if scenario.sharded and shards > 1:
        layers = [sum(p.numel() for p in layer.parameters()) for layer in decoder_layers(model)]
        root = count - sum(layers)
        gathered = (root + 2 * max(layers)) * width + (root + max(layers)) * width
        items.append(MemoryItem("gathered layers", gathered, "training", "the root and two layers, with gradients"))
        items.append(MemoryItem("gathered model", count * width, "decoding", f"whole, in {scenario.compute_dtype}"))
    elif width != model.dtype.itemsize:
        items.append(
            MemoryItem("cast weights", count * width, "training", f"autocast's copies in {scenario.compute_dtype}")
        )
    items.append(MemoryItem("activations", _activations(scenario), "training", _passes(scenario)))
    items.append(_logits(scenario))
    items += _features(scenario)
    if rows := scenario.decode_rows:
        # A commit row for up to half of the rows.
        size = _keys_and_values(scenario, (rows + rows // 2) * scenario.length)
        items.append(MemoryItem("KV cache", size, "decoding", f"{rows} rows of {scenario.length} tokens"))
    return items


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the size of tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def optimizer_bytes(optimizer: Callable[[Any], Optimizer], parameters: list[tuple[str, Tensor]]) -> int:
    """Return the bytes of an optimiser's state after a step, by letting it step on the meta device."""
    copies = [(name, torch.nn.Parameter(torch.empty_like(p, device="meta"))) for name, p in parameters]
    for (_, target), (_, parameter) in zip(copies, parameters, strict=True):
        copy_mark(parameter, target)
    instance = optimizer(copies)
    for _, parameter in copies:
        parameter.grad = torch.empty_like(parameter)
    instance.step()
    return bytes_of(value for state in instance.state.values() for value in state.values() if isinstance(value, Tensor))


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


def _logits(scenario: MemoryScenario) -> MemoryItem:
    """Return the memory that the loss keeps, as if every token were response."""
    head = scenario.model.get_output_embeddings().weight
    assert isinstance(head, Tensor)
    positions, vocab, width = scenario.rows * scenario.length, head.shape[0], scenario.compute_dtype.itemsize
    cast = 0 if width == 4 else width
    chunk, divergence = chunk_size(positions, vocab, "cuda"), 4 * _KEPT_OF_DIVERGENCE
    beside = ", those of teachers, and one gradient" if scenario.divergence_views else ", and one gradient"
    if chunk == positions:
        size = positions * vocab * (4 * scenario.views + divergence * scenario.divergence_views + cast + 4)
        return MemoryItem("logits", size, "training", f"float32 log-probabilities of each view{beside}")
    size = chunk * vocab * (4 + divergence * min(scenario.divergence_views, 1) + cast + 4)
    size += scenario.views * positions * head.shape[1] * width
    if head.requires_grad:
        size += head.numel() * (scenario.views * head.element_size() + 4 + head.element_size())
    detail = f"{chunk} positions at a time, and each view's gradient of hidden states and head"
    return MemoryItem("logits", size, "training", detail)


def _features(scenario: MemoryScenario) -> list[MemoryItem]:
    """Return the memory of the features that a noise strategy asks for, and of the frozen copy that has them."""
    layer, model = scenario.feature_layer, scenario.model
    if layer is None:
        return []
    tokens, hidden = scenario.rows * scenario.length, int(model.config.hidden_size)
    detail = f"float32, of {_counted(scenario.feature_requests, 'forward')} of the frozen copy"
    items = [MemoryItem("features", scenario.feature_requests * tokens * hidden * 4, "training", detail)]
    if scenario.copies_features:
        size = bytes_of(first_layers(model, layer + 1).parameters())
        when = "training" if scenario.offloaded else "always"
        detail = f"embedding and {layer + 1} of {_counted(len(decoder_layers(model)), 'layer')}"
        items.append(MemoryItem("frozen copy", size, when, detail))
    return items


def _activations(scenario: MemoryScenario) -> int:
    """Return the bytes kept between forward and backward pass, all passes together, as if all were in the compute type.

    (Autocast keeps the residual stream in float32, so a model that is not sharded keeps up to half as much again.)
    """
    hidden, length, views = int(scenario.model.config.hidden_size), scenario.length, scenario.views
    tokens = scenario.rows * length
    if scenario.checkpointing:
        layers, states = len(decoder_layers(scenario.model)), tokens * hidden * scenario.compute_dtype.itemsize
        if supports_cache_under_checkpointing(scenario.model):
            inputs = (1 + views) * layers * states + _keys_and_values(scenario, tokens)
            return inputs + _pass(scenario, length, 2 * length) // layers
        return views * layers * 2 * states + _pass(scenario, 2 * length, 2 * length) // layers
    clean = _pass(scenario, length, length)
    return clean + views * _pass(scenario, length, 2 * length)


def _pass(scenario: MemoryScenario, queries: int, keys: int) -> int:
    """Measure the bytes that one pass keeps, on the meta device; ``keys - queries`` come from an earlier pass."""
    device, dtype = torch.device("meta"), scenario.compute_dtype
    attention = attention_of(scenario.model)
    model: Any = copy.deepcopy(scenario.model).to(dtype)  # type: ignore[arg-type]
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


def _passes(scenario: MemoryScenario) -> str:
    form = "the clean copy and each view"
    if scenario.checkpointing:
        whole = supports_cache_under_checkpointing(scenario.model)
        form = f"{form if whole else 'each view with its clean copy'}, layer inputs alone"
    views = _counted(scenario.views, "view")
    if scenario.rollout_forwards:
        form += f"; {_counted(scenario.rollout_forwards, 'forward')} without gradients keep none"
    return f"{scenario.rows} rows of {scenario.length} tokens, {views}: {form}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def _millions(parameters: list[Tensor]) -> str:
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:,.1f}M"


def _keys_and_values(scenario: MemoryScenario, tokens: int) -> int:
    """Return the bytes of the keys and values of all layers."""
    config = scenario.model.config
    per_token = 2 * int(config.num_hidden_layers) * _kv_heads(config) * _head_dim(config)
    return tokens * per_token * scenario.compute_dtype.itemsize


def _kv_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
