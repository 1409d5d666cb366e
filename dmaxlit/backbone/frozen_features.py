"""Hidden features of a frozen copy of a denoiser, as it was when training began."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.eval_mode import evaluating
from dmaxlit.backbone.lora import MASK_DELTA, adapters_off
from dmaxlit.backbone.sharding import is_sharded
from dmaxlit.backbone.training_forward import TrainingForward
from dmaxlit.backbone.transformers_internals import decoder_layers
from dmaxlit.errors import UserError
from dmaxlit.tokens import CleanBatch

__all__ = ["FrozenFeatures", "check_layer", "check_unsharded", "first_layers"]


class FrozenFeatures:
    """The residual stream of a frozen copy after a decoder layer, with the attention of training views.

    A model with adapters is its own copy, with the adapters off. Otherwise the embedding and the layers up to that one
    are copied when this object is made, and computed in the precision that the model has when features are asked for.

    Args:
        denoiser: The denoiser.
        layer: Number of the decoder layer, from 0.
        offloaded: Keep the copy in main memory between two batches.

    Raises:
        UserError: If there is no such layer, or the model is sharded.
    """

    def __init__(self, denoiser: Denoiser, layer: int, offloaded: bool = False) -> None:
        check_layer(denoiser.model, layer)
        check_unsharded(is_sharded(denoiser))
        self.layer = layer
        self._shares = denoiser.lora is not None
        self._trunk = _Trunk.of(denoiser, layer)
        self._model = denoiser.model
        self._offloaded = offloaded and not self._shares
        self._forward: tuple[CleanBatch, TrainingForward] | None = None

    def __call__(self, clean: CleanBatch, ids: Tensor) -> Tensor:
        """Return the features of a sequence, ``[B, L, width]`` float32.

        Args:
            clean: The clean batch, whose own pass is shared by all sequences asked for between two :meth:`release`.
            ids: ``[B, L]`` the sequence; each block attends to itself and to the clean blocks before it.
        """
        trunk = self._trunk
        with torch.no_grad(), self._frozen():
            if self._forward is None or self._forward[0] is not clean:
                if not self._shares:
                    self._prepare_copy(clean.ids.device)
                self._forward = clean, TrainingForward(trunk, clean)
            return self._forward[1](ids).float()

    def release(self) -> None:
        """Forget the clean batch, and free the device's memory if the copy is offloaded."""
        self._forward = None
        if self._offloaded:
            self._trunk.model.to("cpu")  # type: ignore[arg-type]

    def checksum(self) -> float:
        """Return a number that tells the weights of this copy from others', up to rounding; 0 with adapters."""
        if self._shares:
            return 0.0
        return self._mean_sizes

    @cached_property
    def _mean_sizes(self) -> float:
        """Sum of the mean sizes of the copied weights; computed once, since they never change."""
        return sum(float(weight.double().abs().mean()) for weight in self._trunk.model.parameters())

    def _prepare_copy(self, device: torch.device) -> None:
        """Move the copy to the device, in the precision of the model, which a trainer casts after it was copied."""
        copied, dtype = self._trunk.model, self._model.dtype
        if copied.dtype != dtype:
            self.checksum()  # of the weights as they were copied
            copied.to(dtype)  # type: ignore[arg-type]  # transformers overloads it
        copied.to(device)  # type: ignore[arg-type]

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Turn dropout and adapters off, where the copy is the model itself."""
        if not self._shares:
            yield
            return
        model = self._trunk.model
        with evaluating(model.modules()), adapters_off(model):
            yield


def check_layer(model: nn.Module, layer: int) -> None:
    """Refuse a layer that the model does not have.

    Raises:
        UserError: If so.
    """
    count = len(decoder_layers(model))
    if not 0 <= layer < count:
        raise UserError(f"noise.layer: expected 0 to {count - 1}, since the model has {count} layers, got {layer}")


def check_unsharded(sharded: bool) -> None:
    """Refuse a sharded model.

    Raises:
        UserError: If it is.
    """
    if sharded:
        raise UserError("noise: expected an unsharded model, since features need a whole frozen copy of it")


class _Trunk(Denoiser):
    """A denoiser whose hidden states are those after a decoder layer; it has no output layer of its own."""

    layer: int

    @classmethod
    def of(cls, denoiser: Denoiser, layer: int) -> _Trunk:
        trunk = cls.__new__(cls)
        trunk.__dict__.update(denoiser.__dict__)
        trunk._modules, trunk._parameters = dict(denoiser._modules), {MASK_DELTA: None}
        trunk.layer, trunk.compiles_training = layer, False
        if denoiser.lora is None:
            trunk.model = first_layers(denoiser.model, layer + 1)
        return trunk

    def hidden(self, *inputs: Any, **named: Any) -> Tensor:
        """Compute the hidden states after the layer, ``[B, Q, width]``; arguments as those of a denoiser."""

        def stop(module: nn.Module, arguments: Any, output: Any) -> None:
            raise _LayerReached(output[0] if isinstance(output, tuple) else output)

        handle = decoder_layers(self.model)[self.layer].register_forward_hook(stop)
        try:
            return super().hidden(*inputs, **named)
        except _LayerReached as reached:
            return reached.states
        finally:
            handle.remove()


class _LayerReached(Exception):  # noqa: N818  # no error: it ends the forward
    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def first_layers(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """Return a frozen copy of a model's trunk with its first layers, in eval mode.

    Args:
        model: The model.
        count: Number of layers.
    """
    base: Any = model.base_model
    layers = decoder_layers(base)
    parents = [
        (module, name)
        for module in base.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and list(child) == layers
    ]
    for module, name in parents:
        setattr(module, name, nn.ModuleList(layers[:count]))
    try:
        copied: PreTrainedModel = copy.deepcopy(base)
    finally:
        for module, name in parents:
            setattr(module, name, nn.ModuleList(layers))
    copied.requires_grad_(False)
    copied.activation_checkpointing_disable()
    copied.eval()
    return copied
