"""The task that a checkpoint names: text from elsewhere, by which nothing is imported and no file is opened."""

from collections.abc import Mapping
from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.tasks.base import TASKS, Task, task

_LONGEST = 200  # characters of the options in a message


class StoredTaskError(UserError):
    """A checkpoint names a task that is not built for it; the user can name the task instead."""


def task_of_checkpoint(name: str, options: Mapping[str, Any]) -> Task:
    """Return the task that a checkpoint names, if that is harmless whatever the options are.

    Args:
        name: The name in the checkpoint. An import path is no name.
        options: The options in the checkpoint.

    Raises:
        StoredTaskError: If no task is registered as ``name``, or it is not
            :attr:`~dmaxlit.tasks.Task.self_contained`.
        UserError: If it refuses the options.
    """
    if name not in TASKS:
        raise StoredTaskError(
            f"task: expected a registered one ({', '.join(TASKS)}), got {name[:_LONGEST]!r} from the checkpoint; "
            "name the task yourself (--task)"
        )
    if not TASKS.get(name).self_contained:
        listed = ", ".join(f"{key}={value!r}" for key, value in options.items() if value is not None)
        shortened = listed if len(listed) <= _LONGEST else f"{listed[:_LONGEST]} ..."
        raise StoredTaskError(
            f"task: expected it by name (--task {name} --task.OPTION ...), since what {name!r} opens or runs is not "
            f"left to a checkpoint, which has {shortened or 'no options'}"
        )
    try:
        return task(name, **options)
    except UserError as error:
        raise UserError(f"task of the checkpoint: {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"task of the checkpoint: {name!r} refuses its options ({error})") from error
