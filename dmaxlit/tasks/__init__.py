"""Tasks: prompts in disjoint splits, and checkers for the answers."""

from dmaxlit.tasks.asdiv import AsdivTask
from dmaxlit.tasks.base import TASKS, Example, Split, Task, split_of, task
from dmaxlit.tasks.chain import ChainTask, StepReport
from dmaxlit.tasks.dependency import DependencyTask
from dmaxlit.tasks.gsm8k import Gsm8kTask
from dmaxlit.tasks.jsonl import JsonlTask
from dmaxlit.tasks.math500 import Math500Task
from dmaxlit.tasks.minerva_algebra import MinervaAlgebraTask
from dmaxlit.tasks.reasoning_gym import ReasoningGymTask
from dmaxlit.tasks.stories import StoriesTask, Story, StoryReport
from dmaxlit.tasks.sudoku import MiniSudokuTask, SudokuTask

__all__ = [
    "TASKS",
    "AsdivTask",
    "ChainTask",
    "DependencyTask",
    "Example",
    "Gsm8kTask",
    "JsonlTask",
    "Math500Task",
    "MinervaAlgebraTask",
    "MiniSudokuTask",
    "ReasoningGymTask",
    "Split",
    "StepReport",
    "StoriesTask",
    "Story",
    "StoryReport",
    "SudokuTask",
    "Task",
    "split_of",
    "task",
]
