"""Noise strategies: how a clean response becomes the views a denoiser is trained on."""

from dmaxlit.noise.base import NOISE, Corruption, Level, NoiseStrategy, Prediction, View, Views
from dmaxlit.noise.complementary import ComplementaryNoise
from dmaxlit.noise.confidence import ConfidenceNoise
from dmaxlit.noise.editing import EditingNoise
from dmaxlit.noise.masked import MaskedNoise
from dmaxlit.noise.on_policy import OnPolicyNoise
from dmaxlit.noise.rollout_k import RolloutKNoise
from dmaxlit.noise.soft_on_policy import SoftOnPolicyNoise
from dmaxlit.noise.uniform import UniformNoise

__all__ = [
    "NOISE",
    "ComplementaryNoise",
    "ConfidenceNoise",
    "Corruption",
    "EditingNoise",
    "Level",
    "MaskedNoise",
    "NoiseStrategy",
    "OnPolicyNoise",
    "Prediction",
    "RolloutKNoise",
    "SoftOnPolicyNoise",
    "UniformNoise",
    "View",
    "Views",
]
