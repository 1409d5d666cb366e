"""Backbones: transformers language models used as block-diffusion denoisers."""

from dmaxlit.backbone.attention import block_diffusion_mask, to_model_mask
from dmaxlit.backbone.cache import RowCache
from dmaxlit.backbone.denoiser import CleanContext, Denoiser
from dmaxlit.backbone.formats.model_folder import read_metadata

__all__ = [
    "CleanContext",
    "Denoiser",
    "RowCache",
    "block_diffusion_mask",
    "read_metadata",
    "to_model_mask",
]
