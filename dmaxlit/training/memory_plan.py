"""Estimate the memory that a training run needs on each GPU, from shapes alone: no weights are loaded."""

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from dmaxlit.backbone.frozen_features import first_layers
from dmaxlit.backbone.hidden_matrices import mark_hidden_matrices
from dmaxlit.backbone.transformers_internals import decoder_layers
from dmaxlit.training.activation_memory import activation_bytes, has_cache, trained_passes, uncast_experts
from dmaxlit.training.chunked_logits import chunk_size
from dmaxlit.training.memory_scenario import ALWAYS, PHASES, MemoryItem, MemoryScenario, keys_and_values
from dmaxlit.training.optimizer_memory import bytes_of, optimizer_memory

_KEPT_OF_DIVERGENCE = 6  # float32 numbers for each logit, beside the log-probability that a cross-entropy keeps


def plan(scenario: MemoryScenario) -> list[MemoryItem]:
    """Return everything a GPU holds, and in which phases of a run."""
    return plans(scenario, [scenario.gpus])[0]


def plans(scenario: MemoryScenario, gpus: Iterable[int]) -> list[list[MemoryItem]]:
    """Return the plan for some numbers of GPUs; what does not depend on their number is measured once."""
    mark_hidden_matrices(scenario.model)
    trained = [(name, parameter) for name, parameter in _named(scenario) if parameter.requires_grad]
    optimizer = optimizer_memory(scenario.optimizer, trained)
    batch = _batch(scenario)
    return [[*_weights(replace(scenario, gpus=number), *optimizer), *batch] for number in gpus]


def peaks(items: Iterable[MemoryItem]) -> dict[str, int]:
    """Return the bytes of each phase."""
    items = list(items)
    return {phase: sum(item.size for item in items if item.is_held(phase)) for phase in PHASES}


def _named(scenario: MemoryScenario) -> list[tuple[str, Tensor]]:
    return [
        *scenario.model.named_parameters(),
        *((f"extra.{number}", parameter) for number, parameter in enumerate(scenario.extra)),
    ]


def _weights(scenario: MemoryScenario, state: int, update: int) -> list[MemoryItem]:
    """Return what depends on the weights, and is divided where they are shared."""
    model = scenario.model
    parameters = [parameter for _, parameter in _named(scenario)]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    shards = scenario.gpus if scenario.sharded else 1
    fraction = f", 1/{shards} of it" if shards > 1 else ""
    count = sum(parameter.numel() for parameter in parameters)
    of_trained = f"of {_millions(trained)} trained{fraction}"
    items = [
        MemoryItem(
            "parameters",
            -(-bytes_of(parameters) // shards),
            ALWAYS,
            f"{count / 1e6:,.1f}M of {model.dtype}{fraction}",
        ),
        MemoryItem("gradients", -(-bytes_of(trained) // shards), ("training", "update"), of_trained),
        MemoryItem("optimiser state", -(-state // shards), ALWAYS, of_trained),
        MemoryItem("optimiser's temporaries", -(-update // shards), ("update",), of_trained),
    ]
    width = scenario.compute_dtype.itemsize
    if scenario.sharded and shards > 1:
        layers = [sum(p.numel() for p in layer.parameters()) for layer in decoder_layers(model)]
        root = count - sum(layers)
        gathered = (root + 2 * max(layers)) * width
        items += [
            MemoryItem("gathered layers", gathered, ("training",), "the root and two layers"),
            _whole_gradients(scenario),
            MemoryItem("gathered root", root * width, ("update",), "embeddings, last norm and head"),
            MemoryItem("gathered model", count * width, ("decoding",), f"whole, in {scenario.compute_dtype}"),
        ]
    elif width != model.dtype.itemsize:
        items.append(_cast_weights(scenario))
    if scenario.gpus > 1 and not scenario.sharded:  # DDP's, which gradients are copied to and from
        detail = f"{of_trained}, in which GPUs exchange them"
        items.append(MemoryItem("gradient buckets", bytes_of(trained), ALWAYS, detail))
    return items


def _cast_weights(scenario: MemoryScenario) -> MemoryItem:
    """Return autocast's copies of the matrices that are multiplied with, which the backward pass needs.

    Lightning turns autocast's cache off, so that each pass makes its own.
    """
    model, passes = scenario.model, trained_passes(scenario)
    layers = []
    for layer in decoder_layers(model):
        own = {parameter for experts in uncast_experts(scenario, layer) for parameter in experts.parameters()}
        layers.append(sum(p.numel() for p in layer.parameters() if p.dim() > 1 and p not in own))
    head = model.get_output_embeddings().weight
    assert isinstance(head, Tensor)
    size, of_layers = (max(layers), "of a layer") if scenario.checkpointing else (passes * sum(layers), "of each pass")
    size += head.numel() * (1 if _is_chunked(scenario, head) else scenario.views)
    detail = f"autocast's copies in {scenario.compute_dtype}, {of_layers} and of the head"
    return MemoryItem("cast weights", size * scenario.compute_dtype.itemsize, ("training",), detail)


def _is_chunked(scenario: MemoryScenario, head: Tensor) -> bool:
    """Return whether the logits are computed a chunk of positions at a time, as if every token were response."""
    positions = scenario.rows * scenario.length
    return not scenario.whole_logits and chunk_size(positions, head.shape[0], "cuda") < positions


def _whole_gradients(scenario: MemoryScenario) -> MemoryItem:
    """Return the gradients that are not divided yet: autograd sums those of a layer over its passes, and only then.

    The passes run one after the other, so that of all layers a sum is there before the last pass ends with the first.
    """
    trained = sum(parameter.numel() for _, parameter in _named(scenario) if parameter.requires_grad)
    name, passes = "whole gradients", trained_passes(scenario)
    if passes > 1:
        detail = f"in {scenario.compute_dtype}, summed over {passes} passes before they are shared"
        return MemoryItem(name, trained * scenario.compute_dtype.itemsize, ("training",), detail)
    layers = [sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in decoder_layers(scenario.model)]
    size = (trained - sum(layers) + max(layers)) * scenario.compute_dtype.itemsize
    return MemoryItem(name, size, ("training",), f"in {scenario.compute_dtype}, of the root and a layer")


def _batch(scenario: MemoryScenario) -> list[MemoryItem]:
    """Return what depends on the rows of one GPU."""
    training, tokens = ("training",), scenario.rows * scenario.length
    items = [MemoryItem("activations", activation_bytes(scenario), training, _passes(scenario))]
    if has_cache(scenario):
        detail = "keys and values of the clean copy"
        items.append(MemoryItem("rollout's cache", keys_and_values(scenario, tokens), training, detail))
    items.append(_logits(scenario))
    items += _features(scenario)
    if rows := scenario.decode_rows:
        # A commit row for up to half of the rows.
        size = keys_and_values(scenario, (rows + rows // 2) * scenario.length)
        items.append(MemoryItem("KV cache", size, ("decoding",), f"{rows} rows of {scenario.length} tokens"))
    return items


def _logits(scenario: MemoryScenario) -> MemoryItem:
    """Return the memory that the loss keeps, as if every token were response."""
    head = scenario.model.get_output_embeddings().weight
    assert isinstance(head, Tensor)
    positions, vocab, width = scenario.rows * scenario.length, head.shape[0], scenario.compute_dtype.itemsize
    cast = 0 if width == 4 else width
    chunk, divergence = chunk_size(positions, vocab, "cuda"), 4 * _KEPT_OF_DIVERGENCE
    beside = ", those of teachers, and one gradient" if scenario.divergence_views else ", and one gradient"
    if not _is_chunked(scenario, head):
        size = positions * vocab * (4 * scenario.views + divergence * scenario.divergence_views + cast + 4)
        return MemoryItem("logits", size, ("training",), f"float32 log-probabilities of each view{beside}")
    size = chunk * vocab * (4 + divergence * min(scenario.divergence_views, 1) + cast + 4)
    size += scenario.views * positions * head.shape[1] * width
    if head.requires_grad:
        size += head.numel() * (scenario.views * head.element_size() + 4 + head.element_size())
    detail = f"{chunk} positions at a time, and each view's gradient of hidden states and head"
    return MemoryItem("logits", size, ("training",), detail)


def _features(scenario: MemoryScenario) -> list[MemoryItem]:
    """Return the memory of the features that a noise strategy asks for, and of the frozen copy that has them."""
    layer, model = scenario.feature_layer, scenario.model
    if layer is None:
        return []
    tokens, hidden = scenario.rows * scenario.length, int(model.config.hidden_size)
    detail = f"float32, of {_counted(scenario.feature_requests, 'forward')} of the frozen copy"
    items = [MemoryItem("features", scenario.feature_requests * tokens * hidden * 4, ("training",), detail)]
    if scenario.copies_features:
        size = bytes_of(first_layers(model, layer + 1).parameters())
        when = ("training",) if scenario.offloaded else ALWAYS
        detail = f"embedding and {layer + 1} of {_counted(len(decoder_layers(model)), 'layer')}"
        items.append(MemoryItem("frozen copy", size, when, detail))
    return items


def _passes(scenario: MemoryScenario) -> str:
    tokens = f"{scenario.rows} rows of {scenario.length} tokens"
    if not scenario.clean_copy:
        inputs = ", layer inputs alone" * scenario.checkpointing
        return f"{tokens}, {_counted(scenario.views, 'pass', 'es')} over the row alone{inputs}"
    form = "the clean copy and each view"
    if scenario.checkpointing:
        form = f"{form if has_cache(scenario) else 'each view with its clean copy'}, layer inputs alone"
    views = _counted(scenario.views, "view")
    if scenario.rollout_forwards:
        form += f"; {_counted(scenario.rollout_forwards, 'forward')} without gradients keep none"
    return f"{tokens}, {views}: {form}"


def _counted(count: int, noun: str, plural: str = "s") -> str:
    return f"{count} {noun}" + plural * (count != 1)


def _millions(parameters: list[Tensor]) -> str:
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:,.1f}M"
