"""Low-rank adaptation (LoRA, arXiv 2106.09685) through peft: a few trained parameters next to frozen weights."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dmaxlit.backbone.formats.model_folder import empty_model_of, model_of_weights
from dmaxlit.backbone.hidden_matrices import output_embeddings, routers
from dmaxlit.backbone.transformers_internals import embedding_scale
from dmaxlit.errors import UserError

MASK_DELTA = "mask_delta"
_ADAPTER = "default"


@dataclass
class LoraSettings:
    """``W + alpha / r * B A`` in place of each adapted matrix ``W``, which is frozen; B starts at 0.

    The mask token's embedding is trained with them, as an offset added to its row: a model that has never seen the
    token could not learn to read it otherwise. Both are float32, also where W is not, unless the trainer casts all
    weights (``bf16-true``, ``16-true``). Exports and ``dmaxlit.load`` have everything merged.

    Args:
        r: Rank, at least 1.
        alpha: Scale, above 0; the product is multiplied by ``alpha / r``.
        dropout: Dropout probability of the product's input, in [0, 1).
        target_modules: Names of the linear layers, such as ``[q_proj, v_proj]``, a regular expression of whole names,
            or ``all-linear``: all except the output embedding and routers. (Experts that are stacked in one tensor are
            not linear layers.)
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: If one is.
        """
        if self.r < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise UserError(
                "lora: expected r of at least 1, alpha above 0 and dropout in [0, 1), "
                f"got {self.r}, {self.alpha} and {self.dropout}"
            )


def add_adapters(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Add adapters to the target layers and freeze everything else.

    Raises:
        UserError: If peft is not installed, a setting is out of range, a name belongs to no layer, or one of the layers
            could not be merged with its adapter.
    """
    settings.check()
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise UserError("lora: expected the package peft, found none; pip install -e '.[lora]'") from error
    layers = target_layers(model, settings.target_modules)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=[f"model.{name}" for name in layers],
        fan_in_fan_out=all(isinstance(layer, Conv1D) for layer in layers.values()),  # it corrects a mixture itself
    )
    # Inside a plain module: from a transformers model with experts peft replaces the layers by others, those that had
    # the same names in an older release of transformers.
    inject_adapter_in_model(config, nn.ModuleDict({"model": model}), _ADAPTER)
    adapted = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if adapted != set(layers):
        odd = sorted(adapted ^ set(layers))[0]
        raise UserError(f"lora: expected adapters on {len(layers)} layers, peft added {len(adapted)}; {odd} differs")
    train_in_float32(model)


def train_in_float32(model: nn.Module) -> None:
    """Make the trained parameters float32, whatever the frozen ones are: 16 bits would round most updates away."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Compute without adapters for a while: their product counts 0 times. Which weights are trained does not change."""
    from peft.tuners.lora import LoraLayer

    scales: list[dict[str, float]] = [module.scaling for module in model.modules() if isinstance(module, LoraLayer)]
    before = [dict(scale) for scale in scales]
    try:
        for scale in scales:
            scale.update(dict.fromkeys(scale, 0.0))
        yield
    finally:
        for scale, values in zip(scales, before, strict=True):
            scale.update(values)


def target_layers(model: PreTrainedModel, target_modules: str | list[str]) -> dict[str, nn.Module]:
    """Return the layers that get an adapter, by name.

    Args:
        model: The model, with or without weights.
        target_modules: As in :class:`LoraSettings`.

    Raises:
        UserError: If a name belongs to no layer, or to one that could not be merged with its adapter.
    """
    modules = dict(model.named_modules())
    if target_modules == "all-linear":
        excluded = {*output_embeddings(model), *routers(model)}
        layers = {
            name: module
            for name, module in modules.items()
            if isinstance(module, (nn.Linear, Conv1D)) and module not in excluded
        }
        if not layers:
            raise UserError(f"lora.target_modules: expected a model with linear layers, got {model.config.model_type}")
    else:
        layers = {}
        for target in [target_modules] if isinstance(target_modules, str) else target_modules:
            matches = {n: m for n, m in modules.items() if n and _matches(n, target, isinstance(target_modules, str))}
            if not matches:
                raise UserError(f"lora.target_modules: expected names of linear layers, got {target!r}, which none has")
            layers.update(matches)
        if not layers:
            raise UserError("lora.target_modules: expected names of linear layers or all-linear, got none")
    owners: dict[Tensor, int] = {}
    for module in modules.values():
        for parameter in module.parameters(recurse=False):
            owners[parameter] = owners.get(parameter, 0) + 1
    for name, layer in layers.items():
        reason = _obstacle(layer, owners)
        if reason is not None:
            raise UserError(f"lora.target_modules: expected linear layers that adapters merge into, got {name}{reason}")
    return {name: layers[name] for name in modules if name in layers}


def _matches(name: str, target: str, is_pattern: bool) -> bool:
    if not is_pattern:
        return name == target or name.endswith(f".{target}")
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise UserError(f"lora.target_modules: expected a regular expression, got {target!r} ({error})") from error


@torch.no_grad()
def _obstacle(layer: nn.Module, owners: Mapping[Tensor, int]) -> str | None:
    """Return why an adapter could not be merged into a layer; None if it can."""
    if not isinstance(layer, (nn.Linear, Conv1D)):
        return f" ({type(layer).__name__})"
    weight = layer.weight
    if owners[weight] > 1:
        return ", whose weight is tied to another layer's"
    if weight.ndim != 2 or not weight.is_floating_point():
        return f", whose weight is quantised ({weight.dtype})"
    if type(layer).forward in (nn.Linear.forward, Conv1D.forward) or weight.is_meta:
        return None
    inputs = torch.linspace(-1, 1, weight.shape[1], device=weight.device, dtype=weight.dtype)[None]
    output, tolerance = layer(inputs), 1e-2 if weight.itemsize < 4 else 1e-4
    if isinstance(output, Tensor) and torch.allclose(
        output, F.linear(inputs, weight, layer.bias), atol=tolerance, rtol=tolerance
    ):
        return None
    return f" ({type(layer).__name__}), which computes something else"


@torch.no_grad()
def check_embedding(embedding: nn.Module, table: Tensor) -> None:
    """Refuse an embedding that is not its table, scaled: an offset to the mask token's row could not be merged.

    Args:
        embedding: The input embedding layer.
        table: ``[vocab, width]``, its weight.

    Raises:
        UserError: If it computes something else.
    """
    ids = torch.arange(min(8, len(table)), device=table.device)
    expected, tolerance = table[ids] * embedding_scale(embedding), 1e-2 if table.itemsize < 4 else 1e-4
    if not torch.allclose(embedding(ids), expected, atol=tolerance, rtol=tolerance):
        kind = type(embedding).__name__
        raise UserError(f"lora: expected a model that embeds tokens by scaled rows of its table, got a {kind}")


@torch.no_grad()
def merge_weights(
    weights: Mapping[str, Tensor],
    settings: LoraSettings,
    embedding_names: Collection[str],
    mask_id: int,
    inputs_first: Mapping[str, bool],
) -> dict[str, Tensor]:
    """Return the weights of a model without adapters that computes the same.

    Args:
        weights: Weights of the model with adapters, and the mask token's offset under :data:`MASK_DELTA`.
        settings: Settings of the adapters.
        embedding_names: Names of the embedding table, the first one and those tied to it.
        mask_id: Id of the mask token.
        inputs_first: The linear layers by name, and whether they store ``[inputs, outputs]``, as GPT-2's do.

    Raises:
        UserError: If an adapter belongs to no linear layer.
    """
    merged = {name.replace(".base_layer.", "."): weight for name, weight in weights.items() if ".lora_" not in name}
    for name, a in weights.items():
        layer, separator, _ = name.partition(f".lora_A.{_ADAPTER}.")
        if separator:
            if layer not in inputs_first:
                raise UserError(
                    f"checkpoint: expected adapters of linear layers, got one of {layer}, which cannot be merged; "
                    "train again with this version"
                )
            b, weight = weights[f"{layer}.lora_B.{_ADAPTER}.weight"], merged[f"{layer}.weight"]
            product = settings.alpha / settings.r * (b.float() @ a.float())
            if inputs_first[layer]:
                product = product.T
            merged[f"{layer}.weight"] = (weight.float() + product).to(weight.dtype)
    offset = merged.pop(MASK_DELTA)
    first, *_ = embedding_names
    table = merged[first].clone()
    table[mask_id] += offset.to(table.dtype)
    return merged | dict.fromkeys(embedding_names, table)


def merged_model(
    config: PretrainedConfig, weights: Mapping[str, Tensor], settings: LoraSettings, embedding_name: str, mask_id: int
) -> PreTrainedModel:
    """Return a model without adapters that computes the same; see :func:`merge_weights`.

    Args:
        config: Configuration of the model.
        weights: Weights of the model with adapters.
        settings: Settings of the adapters.
        embedding_name: Name of the embedding table.
        mask_id: Id of the mask token.
    """
    empty = empty_model_of(config)
    inputs_first = {
        name: isinstance(module, Conv1D)
        for name, module in empty.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    }
    parameters = dict(empty.named_parameters(remove_duplicate=False))
    tied = [name for name, parameter in parameters.items() if parameter is parameters[embedding_name]]
    names = [embedding_name, *(name for name in tied if name != embedding_name)]
    return model_of_weights(config, merge_weights(weights, settings, names, mask_id, inputs_first))
