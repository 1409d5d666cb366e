"""Hashes of a model's weights, by which records and files of answers know the model."""

import hashlib
from typing import Any

import torch


def weights_hash(module: Any) -> str:
    """Return the :func:`model_hash` of a module's model; of the auxiliary model too, if it has one."""
    digest, auxiliary = model_hash(module.backbone.model), module.backbone.auxiliary
    if auxiliary is None:
        return digest
    return hashlib.sha256(f"{digest} {model_hash(auxiliary)}".encode()).hexdigest()


def model_hash(model: torch.nn.Module) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of a model's weights; the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
