"""A denoiser spread over processes by FSDP2: sharding, loading each rank's part, and putting it together to decode.

A layer of the model is one unit; embeddings, last norm and head are another, the root, whose forward is
:meth:`Denoiser.hidden`. The root stays whole between its forward and the update, so the head may be applied to what
``hidden`` returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import LoadStateDictConfig

from dmaxlit.backbone.formats.weight_files import weight_files
from dmaxlit.backbone.transformers_internals import without_progress_bars
from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from dmaxlit.backbone.denoiser import Denoiser

__all__ = ["full_state_dict", "is_sharded", "load_shards", "shard", "unsharded"]


def is_sharded(denoiser: nn.Module) -> bool:
    """Whether :func:`shard` has been called on it."""
    return isinstance(denoiser, FSDPModule)


def shard(denoiser: Denoiser, mesh: DeviceMesh, compute_dtype: torch.dtype | None = None) -> None:
    """Shard every layer, then the rest; parameters become DTensors. Does nothing the second time.

    Args:
        denoiser: The denoiser; its model may be on the meta device.
        mesh: One-dimensional mesh of the ranks that share it.
        compute_dtype: Type that parameters are gathered and used in. Default: their own. Gradients are reduced in
            float32, and the shards keep their type: float32 shards are the master weights.
    """
    if is_sharded(denoiser):
        return
    policy = MixedPrecisionPolicy() if compute_dtype is None else MixedPrecisionPolicy(compute_dtype, torch.float32)
    layers = [module for module in denoiser.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"strategy: {denoiser.model.config.model_type} has no layers that can be sharded one by one")
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(denoiser, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(denoiser, "hidden")


@without_progress_bars()
def load_shards(model: PreTrainedModel, source: Path, device: torch.device) -> None:
    """Read a checkpoint into a model on the meta device: of each tensor only the slice that belongs to this rank.

    Uses the loader behind ``from_pretrained``, which renames and merges weights as it reads slices of safetensors.

    Args:
        model: Sharded or not.
        source: Model folder.
        device: Where the weights go.

    Raises:
        UserError: If there are no safetensors, or weights are missing or of another shape.
    """
    loader, conversions = cast(Any, model), cast(Any, get_model_conversion_mapping(model, None, None))
    config = LoadStateDictConfig(
        pretrained_model_name_or_path=str(source),
        device_map={"": device},
        dtype=model.dtype,
        dtype_plan=loader._get_dtype_plan(model.dtype),
        weight_mapping=conversions,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are refused below, in one line
    )
    files = [str(path) for path in weight_files(source)]
    info, _ = type(loader)._load_pretrained_model(model, None, files, config)
    found = type(loader)._finalize_model_loading(model, config, info).to_dict()
    problems = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in found.get(kind, []))
    if problems:
        raise UserError(
            f"pretrained: {str(source)!r} lacks or misshapes {len(problems)} weights, for instance {problems[0]}"
        )


@contextmanager
def unsharded(denoiser: nn.Module) -> Iterator[None]:
    """The whole model on every rank, in its compute type, for as long as the context lasts; every rank must enter.

    Ranks decode different prompts and so take different numbers of forwards, none of which may then wait for others.
    """
    units = [module for module in denoiser.modules() if isinstance(module, FSDPModule)]
    # Tensors made in inference mode could never take part in training again.
    with torch.inference_mode(False), torch.no_grad():
        if units:
            assert isinstance(denoiser, FSDPModule), "the denoiser is the root"
            denoiser._get_fsdp_state()._lazy_init()
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


def full_state_dict(denoiser: Denoiser) -> dict[str, Tensor] | None:
    """The model's weights, by their names there, put together on rank zero's CPU; every rank must call.

    None if they are not sharded; empty on other ranks.
    """
    if not is_sharded(denoiser):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = cast(dict[str, Tensor], get_model_state_dict(denoiser, options=options))
    return {name.removeprefix("model."): weight for name, weight in weights.items()}
