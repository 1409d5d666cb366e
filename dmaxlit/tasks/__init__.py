"""Tasks: prompts in disjoint splits, and checkers for the answers."""

from dmaxlit.tasks.asdiv import AsdivTask
from dmaxlit.tasks.base import TASKS, Example, Split, Task, TooFewExamplesError, split_of, task
from dmaxlit.tasks.benchmark import BenchmarkTask, Grader, Problem, text_column
from dmaxlit.tasks.chain import ChainTask
from dmaxlit.tasks.dependency import DependencyTask
from dmaxlit.tasks.gsm8k import Gsm8kTask
from dmaxlit.tasks.humaneval import HumanEvalInstructTask, HumanEvalTask
from dmaxlit.tasks.jsonl import JsonlTask
from dmaxlit.tasks.math500 import Math500Task
from dmaxlit.tasks.mbpp import MbppInstructTask, MbppTask
from dmaxlit.tasks.minerva_algebra import MinervaAlgebraTask
from dmaxlit.tasks.programs import ProgramsTask
from dmaxlit.tasks.reasoning_gym import ReasoningGymTask
from dmaxlit.tasks.step_report import StepReport
from dmaxlit.tasks.stories import StoriesTask, Story
from dmaxlit.tasks.sudoku import MiniSudokuTask, SudokuTask

__all__ = [
    "TASKS",
    "AsdivTask",
    "BenchmarkTask",
    "ChainTask",
    "DependencyTask",
    "Example",
    "Grader",
    "Gsm8kTask",
    "HumanEvalInstructTask",
    "HumanEvalTask",
    "JsonlTask",
    "Math500Task",
    "MbppInstructTask",
    "MbppTask",
    "MinervaAlgebraTask",
    "MiniSudokuTask",
    "Problem",
    "ProgramsTask",
    "ReasoningGymTask",
    "Split",
    "StepReport",
    "StoriesTask",
    "Story",
    "SudokuTask",
    "Task",
    "TooFewExamplesError",
    "split_of",
    "task",
    "text_column",
]
