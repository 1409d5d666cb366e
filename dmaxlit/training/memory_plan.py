"""What a training run needs of each GPU's memory, from shapes alone: nothing is loaded."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer
from transformers import Cache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dmaxlit.backbone.activation_checkpointing import supports_cache_under_checkpointing
from dmaxlit.backbone.attention import to_model_mask
from dmaxlit.backbone.transformers_internals import cache_argument
from dmaxlit.training.chunked_logits import chunk_size

__all__ = ["MemoryItem", "MemoryScenario", "bytes_of", "optimizer_bytes", "plan", "saved_bytes"]

_FUSED = "dmaxlit_plan"


@dataclass(frozen=True)
class MemoryScenario:
    """What is to be trained, and how.

    Args:
        model: The model on the meta device, with adapters if there are to be any.
        extra: Trained parameters beside the model's.
        optimizer: Makes the optimiser from named parameters.
        gpus: Number of GPUs.
        sharded: Whether they share the model (FSDP2) or each has its own.
        compute_dtype: Type of activations.
        rows: Rows of one GPU's batch.
        length: Tokens of a row; every row is taken to be as long.
        views: Views of the noise strategy.
        checkpointing: Whether activations are computed again.
        decode_rows: Rows that decode together, 0 for none.
    """

    model: PreTrainedModel
    extra: tuple[Tensor, ...]
    optimizer: Callable[[Any], Optimizer]
    gpus: int
    sharded: bool
    compute_dtype: torch.dtype
    rows: int
    length: int
    views: int
    checkpointing: bool
    decode_rows: int


@dataclass(frozen=True)
class MemoryItem:
    """A line of the plan.

    Args:
        name: What needs memory.
        size: Bytes on each GPU.
        when: ``always``, or only in ``training`` or ``decoding``.
        detail: How the figure comes about.
    """

    name: str
    size: int
    when: str
    detail: str


def plan(setup: MemoryScenario) -> list[MemoryItem]:
    """Everything a GPU holds. Training holds the ``always`` and ``training`` lines at its peak, decoding the others."""
    model = setup.model
    named = [*model.named_parameters(), *((f"extra.{number}", each) for number, each in enumerate(setup.extra))]
    everything = [parameter for _, parameter in named]
    trained = [parameter for parameter in everything if parameter.requires_grad]
    parts = setup.gpus if setup.sharded else 1
    each = f", 1/{parts} of it" if parts > 1 else ""
    count = sum(parameter.numel() for parameter in everything)
    items = [
        MemoryItem(
            "parameters", -(-bytes_of(everything) // parts), "always", f"{count / 1e6:,.1f}M of {model.dtype}{each}"
        ),
        MemoryItem("gradients", -(-bytes_of(trained) // parts), "training", f"of {_millions(trained)} trained{each}"),
        MemoryItem(
            "optimiser state",
            -(-optimizer_bytes(setup.optimizer, [pair for pair in named if pair[1].requires_grad]) // parts),
            "always",
            f"of {_millions(trained)} trained{each}",
        ),
    ]
    width = setup.compute_dtype.itemsize
    if setup.sharded and parts > 1:
        layers = [sum(p.numel() for p in layer.parameters()) for layer in _layers(model)]
        rest = count - sum(layers)
        held = (rest + 2 * max(layers)) * width + (rest + max(layers)) * width
        items.append(MemoryItem("gathered layers", held, "training", "the root and two layers, with gradients"))
        items.append(MemoryItem("gathered model", count * width, "decoding", f"whole, in {setup.compute_dtype}"))
    elif width != model.dtype.itemsize:
        items.append(
            MemoryItem("cast weights", count * width, "training", f"autocast's copies in {setup.compute_dtype}")
        )
    items.append(MemoryItem("activations", _activations(setup), "training", _passes(setup)))
    items.append(_logits(setup))
    if setup.decode_rows:
        held = setup.decode_rows + setup.decode_rows // 2  # twins of up to half of the rows
        cached = _keys_and_values(setup, held * setup.length)
        items.append(MemoryItem("KV cache", cached, "decoding", f"{setup.decode_rows} rows of {setup.length} tokens"))
    return items


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Size of tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def optimizer_bytes(optimizer: Callable[[Any], Optimizer], parameters: list[tuple[str, Tensor]]) -> int:
    """Bytes of an optimiser's state after a step, made by letting it step on the meta device."""
    twins = [(name, torch.nn.Parameter(torch.empty_like(each, device="meta"))) for name, each in parameters]
    made = optimizer(twins)
    for _, twin in twins:
        twin.grad = torch.empty_like(twin)
    made.step()
    return bytes_of(value for state in made.state.values() for value in state.values() if isinstance(value, Tensor))


def saved_bytes(run: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of what ``run`` computes, parameters apart; works on meta."""
    known = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = (storage.nbytes(), tensor)  # the tensor, so that its address is not used again
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    size = sum(size for size, _ in kept.values())
    del result
    return size


def _logits(setup: MemoryScenario) -> MemoryItem:
    """What the loss keeps, as if every token were response."""
    head = setup.model.get_output_embeddings().weight
    assert isinstance(head, Tensor)
    positions, vocab, width = setup.rows * setup.length, head.shape[0], setup.compute_dtype.itemsize
    cast = 0 if width == 4 else width
    at_once = chunk_size(positions, vocab, "cuda")
    if at_once == positions:
        size = positions * vocab * (4 * setup.views + cast + 4)
        return MemoryItem("logits", size, "training", "float32 log-probabilities of each view, and one gradient")
    size = at_once * vocab * (4 + cast + 4)
    size += setup.views * positions * head.shape[1] * width
    if head.requires_grad:
        size += head.numel() * (setup.views * head.element_size() + 4 + head.element_size())
    told = f"{at_once} positions at a time, and what each view means for hidden states and head"
    return MemoryItem("logits", size, "training", told)


def _activations(setup: MemoryScenario) -> int:
    """Bytes kept between forward and backward pass, all passes together, as if all were in the compute type.

    (Autocast keeps the residual stream in float32, so a model that is not sharded keeps up to half as much again.)
    """
    hidden = int(setup.model.config.hidden_size)
    tokens = setup.rows * setup.length
    if setup.checkpointing:
        layers, states = len(_layers(setup.model)), tokens * hidden * setup.compute_dtype.itemsize
        if supports_cache_under_checkpointing(setup.model):
            kept = (1 + setup.views) * layers * states + _keys_and_values(setup, tokens)
            return kept + _pass(setup, setup.length, 2 * setup.length) // layers
        return setup.views * layers * 2 * states + _pass(setup, 2 * setup.length, 2 * setup.length) // layers
    clean = _pass(setup, setup.length, setup.length)
    return clean + setup.views * _pass(setup, setup.length, 2 * setup.length)


def _pass(setup: MemoryScenario, queries: int, keys: int) -> int:
    """Bytes one pass keeps: measured on the meta device, with as many extra keys as an earlier pass has left."""
    from dmaxlit.backbone.cache import CleanCache

    device, width = torch.device("meta"), setup.compute_dtype
    attention = str(setup.model.config._attn_implementation)
    model: Any = copy.deepcopy(setup.model).to(width)  # type: ignore[arg-type]
    if attention == "sdpa":  # on meta it would be computed step by step, as no GPU does
        ALL_ATTENTION_FUNCTIONS.register(_FUSED, _fused_attention)
        model.config._attn_implementation = _FUSED
    embeds = torch.empty(setup.rows, queries, int(model.config.hidden_size), device=device, dtype=width)
    embeds.requires_grad_()
    positions = torch.empty(setup.rows, queries, dtype=torch.long, device=device)
    cache: Cache | None = None

    def run(count: int) -> Callable[[], Tensor]:
        allowed = torch.empty(setup.rows, queries, count, dtype=torch.bool, device=device)
        mask = to_model_mask(allowed, attention, width)

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
    """Keeps what fused kernels keep: queries, keys, values, output, one number a query, and the mask as a bias."""

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
    keys, values = (each.repeat_interleave(groups, 1) if groups > 1 else each for each in (key, value))
    out: Tensor = _FusedAttention.apply(query, keys, values, attention_mask)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def _layers(model: PreTrainedModel) -> list[Any]:
    layers: Any = model.base_model.layers
    return list(layers)


def _passes(setup: MemoryScenario) -> str:
    form = "the clean half and each view"
    if setup.checkpointing:
        whole = supports_cache_under_checkpointing(setup.model)
        form = f"{form if whole else 'each view with its clean copy'}, layer inputs alone"
    return f"{setup.rows} rows of {setup.length} tokens, {_counted(setup.views)}: {form}"


def _counted(views: int) -> str:
    return f"{views} view" + "s" * (views != 1)


def _millions(parameters: list[Tensor]) -> str:
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:,.1f}M"


def _keys_and_values(setup: MemoryScenario, tokens: int) -> int:
    """Bytes of the keys and values of all layers."""
    config = setup.model.config
    per_token = 2 * int(config.num_hidden_layers) * _kv_heads(config) * _head_dim(config)
    return tokens * per_token * setup.compute_dtype.itemsize


def _kv_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
