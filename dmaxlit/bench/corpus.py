"""The corpus that a base model distils from its own task, for the benchmarks that train on it."""

from pathlib import Path

from dmaxlit.data.distill import DistillSettings, distill
from dmaxlit.loading import load


def distilled_corpus(model: str, path: Path, num_prompts: int) -> Path:
    """Write a corpus of a model's answers to prompts of its task, unless it is there; return its path.

    Args:
        model: Folder or name of a model that knows its task.
        path: File to write.
        num_prompts: Prompts to answer.
    """
    if not path.is_file():
        module = load(model)
        task = module.task()
        assert task is not None, "the base was trained on a task"
        distill(module, task, path, DistillSettings(num_prompts=num_prompts))
    return path
