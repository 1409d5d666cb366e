"""Noise strategies: how a clean response becomes the views a denoiser is trained on."""

from dmaxlit.noise.base import (
    NOISE,
    Corruption,
    FeatureRequest,
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
from dmaxlit.noise.mmd import MMDNoise
from dmaxlit.noise.multi_block import MultiBlockNoise
from dmaxlit.noise.on_policy import OnPolicyNoise
from dmaxlit.noise.tsd import TSDNoise
from dmaxlit.noise.uniform import UniformNoise

__all__ = [
    "NOISE",
    "ComplementaryNoise",
    "ConfidenceNoise",
    "Corruption",
    "EditingNoise",
    "FeatureRequest",
    "Level",
    "LogitsPrediction",
    "MMDNoise",
    "MaskedNoise",
    "MultiBlockNoise",
    "NoiseStrategy",
    "OnPolicyNoise",
    "Prediction",
    "TSDNoise",
    "UniformNoise",
    "View",
    "Views",
    "dialogue",
]


def __getattr__(name: str) -> object:
    """Return a strategy that moved to ``dmaxlit.noise.experimental``, with a warning, for one release."""
    import sys
    import warnings

    # jsonargparse shows the shortest import path of a class that it finds; it must not find the old one.
    by_parser = sys._getframe(1).f_globals.get("__name__", "").startswith("jsonargparse.")
    if by_parser or name not in ("RolloutKNoise", "SoftOnPolicyNoise"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from dmaxlit.noise import experimental

    message = f"dmaxlit.noise.{name} is now dmaxlit.noise.experimental.{name}"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(experimental, name)
