"""Tasks: prompts in disjoint splits, and checkers for the answers."""

from dmaxlit.tasks.base import TASKS, Example, Split, Task, split_of, task
from dmaxlit.tasks.chain import ChainTask, StepReport
from dmaxlit.tasks.jsonl import JsonlTask
from dmaxlit.tasks.reasoning_gym import ReasoningGymTask
from dmaxlit.tasks.stories import StoriesTask, Story, StoryReport

__all__ = [
    "TASKS",
    "ChainTask",
    "Example",
    "JsonlTask",
    "ReasoningGymTask",
    "Split",
    "StepReport",
    "StoriesTask",
    "Story",
    "StoryReport",
    "Task",
    "split_of",
    "task",
]
