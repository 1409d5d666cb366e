"""Loading a trained model for use."""

from pathlib import Path
from typing import Any, Literal

import torch

from dmaxlit.backbone import Denoiser
from dmaxlit.checkpoints.stored_backbone import backbone_of_checkpoint
from dmaxlit.errors import UserError, reason_of
from dmaxlit.module import DMaxModule

__all__ = ["load"]


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    probe: bool = True,
    block_length: int | None = None,
) -> DMaxModule:
    """Load a trained model in eval mode, ready to ``generate``.

    Args:
        path: A folder written by ``export`` (or any transformers checkpoint), ``builtin:NAME`` for a shipped model, a
            hub id, or a ``.ckpt`` file written by ``fit``.
        device: Device of the model; ``auto`` for an accelerator if there is one.
        attn_implementation: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Type of the weights. In bfloat16 a model needs half the memory; responses may differ from float32's.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
        block_length: Tokens per block, of a published checkpoint that does not say it. Default: the checkpoint's.

    Raises:
        UserError: If there is no such device, or it has too little memory; if there is no such model, it is damaged, or
            the probe shows that it is no block-diffusion denoiser.
    """
    device = usable_device(device)
    if Path(path).suffix == ".ckpt":
        backbone = backbone_of_checkpoint(path, attn_implementation, dtype, probe, block_length)
    else:
        attention: Any = attn_implementation
        backbone = Denoiser(
            pretrained=str(path), block_length=block_length, attn_implementation=attention, dtype=dtype, probe=probe
        )
    module = DMaxModule(backbone).eval()
    try:
        return module.to(device)
    except torch.OutOfMemoryError as error:
        text = str(path)
        raise UserError(f"device: expected {device} to have memory for {text!r} in {dtype}, got too little") from error


def usable_device(name: str) -> str:
    """Return the name of a device that torch can compute on.

    Args:
        name: ``cpu``, ``cuda`` and so on; ``auto`` for an accelerator if there is one.

    Raises:
        UserError: If there is no such device, or it has no memory.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        name = "cpu" if accelerator is None else accelerator.type
    try:
        torch.zeros(1, device=name).tolist()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: expected one that torch can compute on, got {name!r} ({reason_of(error)})") from error
    return name
