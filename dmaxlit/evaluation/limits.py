"""What ends an answer: a task's budget of tokens and its stop texts."""

from __future__ import annotations

from dataclasses import dataclass

from dmaxlit.tasks import Task


@dataclass(frozen=True)
class Limits:
    """What ends the answers to a task's prompts.

    Args:
        max_new_tokens: Budget of tokens for each answer, EOS included.
        stop: Texts that end an answer as EOS does.
    """

    max_new_tokens: int
    stop: tuple[str, ...] = ()

    @classmethod
    def of_task(cls, task: Task, max_new_tokens: int | None = None) -> Limits:
        """Return the limits of a task.

        Args:
            task: The task.
            max_new_tokens: Another budget than the task's.
        """
        return cls(task.max_new_tokens if max_new_tokens is None else max_new_tokens, tuple(task.stop))
