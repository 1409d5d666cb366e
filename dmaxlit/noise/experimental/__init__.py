"""Strategies without a measured benefit so far; imported when their name is looked up."""

from dmaxlit.noise.experimental.rollout_k import RolloutKNoise
from dmaxlit.noise.experimental.soft_on_policy import SoftOnPolicyNoise
from dmaxlit.noise.experimental.stage_consistency import StageConsistencyNoise

__all__ = ["RolloutKNoise", "SoftOnPolicyNoise", "StageConsistencyNoise"]
