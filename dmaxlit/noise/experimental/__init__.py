"""Strategies that have not (yet) paid: imported when asked for by name."""

from dmaxlit.noise.experimental.rollout_k import RolloutKNoise
from dmaxlit.noise.experimental.soft_on_policy import SoftOnPolicyNoise

__all__ = ["RolloutKNoise", "SoftOnPolicyNoise"]
