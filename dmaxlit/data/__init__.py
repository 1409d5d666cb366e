"""Data: tasks, corpora of prompts with responses, and how they become batches."""

from dmaxlit.data.corpus import SelfDistilledDataModule
from dmaxlit.data.distill import DistillSettings
from dmaxlit.data.tasks import TASKS, Example, Task, task

__all__ = ["TASKS", "DistillSettings", "Example", "SelfDistilledDataModule", "Task", "task"]
