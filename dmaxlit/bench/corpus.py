"""The corpus that a base model distils from its own task, for the benchmarks that train on it."""

from pathlib import Path

from dmaxlit.data.distill import DistillSettings, distill
from dmaxlit.loading import load
from dmaxlit.tasks import Task


def distilled_corpus(model: str, path: Path, num_prompts: int, task: Task | None = None, device: str = "cpu") -> Path:
    """Write a corpus of a model's answers to prompts of its task, unless it is there; return its path.

    Args:
        model: Folder or name of a model that knows its task.
        path: File to write.
        num_prompts: Prompts to answer.
        task: The task. Default: the one that the model was trained on.
        device: Device of the model.
    """
    if not path.is_file():
        module = load(model, device=device)
        task = task or module.task()
        assert task is not None, "the base was trained on a task"
        distill(module, task, path, DistillSettings(num_prompts=num_prompts))
    return path
