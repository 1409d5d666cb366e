"""Benchmarks: commands that make the figures we state."""

from dmaxlit.bench.self_correction import SelfCorrectionBench

__all__ = ["SelfCorrectionBench"]
