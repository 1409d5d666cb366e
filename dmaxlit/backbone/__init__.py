"""Backbones: transformers language models used as block-diffusion denoisers."""

from dmaxlit.backbone.attention import block_diffusion_mask, to_model_mask
from dmaxlit.backbone.cache import RowCache
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.formats.metadata import read_metadata
from dmaxlit.backbone.training_forward import TrainingForward

__all__ = [
    "Denoiser",
    "RowCache",
    "TrainingForward",
    "block_diffusion_mask",
    "read_metadata",
    "to_model_mask",
]
