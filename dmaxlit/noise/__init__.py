"""Noise strategies: how a clean response becomes the views a denoiser is trained on."""

from dmaxlit.noise.base import (
    NOISE,
    Corruption,
    Level,
    LogitsPrediction,
    NoiseStrategy,
    Prediction,
    View,
    Views,
    dialogue,
)
from dmaxlit.noise.complementary import ComplementaryNoise
from dmaxlit.noise.confidence import ConfidenceNoise
from dmaxlit.noise.editing import EditingNoise
from dmaxlit.noise.masked import MaskedNoise
from dmaxlit.noise.on_policy import OnPolicyNoise
from dmaxlit.noise.uniform import UniformNoise

__all__ = [
    "NOISE",
    "ComplementaryNoise",
    "ConfidenceNoise",
    "Corruption",
    "EditingNoise",
    "Level",
    "LogitsPrediction",
    "MaskedNoise",
    "NoiseStrategy",
    "OnPolicyNoise",
    "Prediction",
    "UniformNoise",
    "View",
    "Views",
    "dialogue",
]
