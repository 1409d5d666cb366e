"""Corpora of prompts with responses: written by a model, read, and made into batches."""

from dmaxlit.data.datamodule import SelfDistilledDataModule
from dmaxlit.data.distill import DistillSettings

__all__ = ["DistillSettings", "SelfDistilledDataModule"]
