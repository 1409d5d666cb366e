"""A denoiser sharded over processes by FSDP2: sharding, loading each rank's slices, and gathering it for decoding.

Each layer of the model is one FSDP unit, but for parts of another type, such as float32 routers, which are units of
their own. Embeddings, last norm and head are another, the root, whose forward is :meth:`Denoiser.hidden`. The root
stays gathered between its forward and the update, so that the head can be applied to the output of ``hidden``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from dmaxlit.backbone.formats.weight_files import weight_files
from dmaxlit.backbone.torch_internals import initialize_fsdp
from dmaxlit.backbone.transformers_internals import decoder_layers, load_weight_slices
from dmaxlit.errors import UserError


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor; all of it if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(denoiser: nn.Module) -> bool:
    """Return whether :func:`shard_denoiser` has been called on it."""
    return isinstance(denoiser, FSDPModule)


def shard_denoiser(
    denoiser: nn.Module, model: PreTrainedModel, mesh: DeviceMesh, compute_dtype: torch.dtype | None = None
) -> None:
    """Shard every layer, then the rest; parameters become DTensors. Calling it again does nothing.

    Args:
        denoiser: The denoiser, the root of the sharded modules.
        model: Its model, which may be on the meta device.
        mesh: One-dimensional mesh of the ranks that share it.
        compute_dtype: Type that parameters are gathered and used in. Default: their own. Gradients are reduced in
            float32, and the shards keep their type: float32 shards are the master weights.

    Raises:
        UserError: If the model has no layers of the kind that can be sharded one by one.
    """
    if is_sharded(denoiser):
        return
    policy = MixedPrecisionPolicy() if compute_dtype is None else MixedPrecisionPolicy(compute_dtype, torch.float32)
    layers = decoder_layers(model)
    if not layers:
        raise UserError(f"strategy: {model.config.model_type} has no layers that can be sharded one by one")
    for layer in layers:
        for module in _of_another_dtype(layer):  # a unit's trained ones are of one, and a router's stay float32
            fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(), reshard_after_forward=True)
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(denoiser, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(denoiser, "hidden")


def _of_another_dtype(layer: nn.Module) -> list[nn.Module]:
    """Return the modules whose own parameters are not of the type that most of a layer's are, as a router's may be.

    Adapters are compared with each other: a unit's frozen parameters may be of another type than its trained ones.
    """
    usual = {}
    for is_trained in (False, True):
        dtypes = [parameter.dtype for parameter in layer.parameters() if parameter.requires_grad == is_trained]
        usual[is_trained] = max(dtypes, key=dtypes.count, default=None)
    return [
        module
        for module in layer.modules()
        if module is not layer and any(p.dtype != usual[p.requires_grad] for p in module.parameters(recurse=False))
    ]


def load_shards(model: PreTrainedModel, source: Path, device: torch.device) -> None:
    """Read a checkpoint into a model on the meta device; each rank reads only its slice of each tensor.

    Args:
        model: The model, sharded or not.
        source: Model folder.
        device: Device of the weights.

    Raises:
        UserError: If there are no safetensors, or weights are missing or of another shape.
    """
    problems = load_weight_slices(model, source, [str(path) for path in weight_files(source)], device)
    if problems:
        raise UserError(
            f"pretrained: {str(source)!r} lacks or misshapes {len(problems)} weights, for instance {problems[0]}"
        )


@contextmanager
def unsharded(denoiser: nn.Module) -> Iterator[None]:
    """Gather the whole model on every rank, in its compute type, while the context lasts; every rank must enter.

    Ranks decode different prompts and so take different numbers of forwards, none of which may then wait for others.
    """
    units = [module for module in denoiser.modules() if isinstance(module, FSDPModule)]
    # Tensors created in inference mode could never take part in training again.
    with torch.inference_mode(False), torch.no_grad():
        if units:
            assert isinstance(denoiser, FSDPModule), "the denoiser is the root"
            initialize_fsdp(denoiser)
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for unit in units:
                unit.set_reshard_after_forward(unit is not denoiser, recurse=False)
                unit.reshard()


def full_state_dict(denoiser: nn.Module) -> dict[str, Tensor] | None:
    """Gather the model's weights, by their names there, on rank zero's CPU; every rank must call.

    Returns:
        None if they are not sharded; empty on other ranks.
    """
    if not is_sharded(denoiser):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = cast(dict[str, Tensor], get_model_state_dict(denoiser, options=options))
    return {name.removeprefix("model."): weight for name, weight in weights.items()}
