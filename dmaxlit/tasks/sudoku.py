"""Sudoku, 9x9 and 4x4: every blank depends on all others of its row, column and box."""

import random
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from dmaxlit.errors import UserError, check_at_least, check_choice
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.base import TASKS, Example, Split, Task, TooFewExamplesError, check_split, split_of
from dmaxlit.tasks.matching import answer_part
from dmaxlit.tasks.sudoku_solver import Board, Solver
from dmaxlit.tasks.word_tokenizer import word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["MiniSudokuTask", "SudokuTask"]

Difficulty = Literal["easy", "standard", "hard"]
Wording = Literal["question", "grid"]

_QUESTION = (
    "Complete this {side}x{side} Sudoku: each row, each column and each {box}x{box} box holds each number from 1 to "
    "{side} once.\n{grid}\nReply with the completed grid only, in the same layout."
)
_PATIENCE = 2_000  # draws without a new puzzle before there are taken to be no more


class _Grids(Task):
    """What the sizes share. Subclasses set the side and the number of blanks of each difficulty."""

    self_contained = True
    side: ClassVar[int]
    blanks_of: ClassVar[dict[str, int]]
    most_blanks: ClassVar[int]

    def __init__(
        self,
        difficulty: Difficulty = "standard",
        blanks: int | None = None,
        wording: Wording = "question",
        seed: int = 0,
    ) -> None:
        check_choice("difficulty", difficulty, list(self.blanks_of))
        check_choice("wording", wording, ("question", "grid"))
        check_at_least(1, blanks=blanks)
        if blanks is not None and blanks > self.most_blanks:
            raise UserError(f"blanks: expected at most {self.most_blanks}, got {blanks}")
        self.difficulty, self.blanks, self.wording, self.seed = difficulty, blanks, wording, seed
        self._drawn: dict[Split, _Draws] = {}

    @property
    def max_new_tokens(self) -> int:
        """Tokens of a grid and EOS, in blocks of 32; four times as many after a question, for any tokenizer."""
        grid = (self.side * (self.side + 1) // 32 + 1) * 32
        return grid if self.wording == "grid" else 4 * grid

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, without repeats; see :meth:`Task.examples`.

        Raises:
            UserError: If the split is unknown or there are not so many puzzles.
        """
        check_split(split)
        if split not in self._drawn:
            blanks = self.blanks_of[self.difficulty] if self.blanks is None else self.blanks
            self._drawn[split] = _Draws(self.side, blanks, split, self.seed)
        draws = self._drawn[split]
        draws.extend(n)
        if n > len(draws.puzzles):
            raise TooFewExamplesError(len(draws.puzzles), f"{split} puzzles of {draws.blanks} blanks", n)
        return [self._example(*puzzle) for puzzle in draws.puzzles[:n]]

    def _example(self, puzzle: Board, solution: Board) -> Example:
        grid, answer = grid_text(puzzle), grid_text(solution)
        box = round(self.side**0.5)
        prompt = grid if self.wording == "grid" else _QUESTION.format(side=self.side, box=box, grid=grid)
        return Example(prompt, answer, partial(_is_grid, answer), answer, extract=extracted_grid)

    @classmethod
    def tokenizer(cls) -> "PreTrainedTokenizerFast":
        """Return a tokenizer with one token for each cell and line end; for the wording ``grid``."""
        return word_tokenizer([*map(str, range(1, cls.side + 1)), "_"], with_lines=True)


@TASKS.register("sudoku")
class SudokuTask(_Grids):
    """Sudoku of 9x9 cells with exactly one solution, which a solver has checked.

    The answer is the text in ``<answer>`` tags, or else after ``####``, or else the whole text, with single spaces. It
    is right if it is the solution and nothing else: if the scorer of reasoning-gym's ``sudoku`` gives 1 to it. No two
    splits share a solution.

    Args:
        difficulty: Number of blanks: ``easy`` 30, ``standard`` 40, ``hard`` 50.
        blanks: Number of blanks, 1 to 55, instead of the difficulty's.
        wording: ``question``: the rules and the puzzle. ``grid``: the puzzle alone, which :meth:`tokenizer` can encode.
        seed: Seed of the puzzles. The split of a puzzle does not depend on it.

    Raises:
        UserError: If an option is unknown or out of range.
    """

    side = 9
    blanks_of: ClassVar[dict[str, int]] = {"easy": 30, "standard": 40, "hard": 50}
    most_blanks = 55


@TASKS.register("mini_sudoku")
class MiniSudokuTask(_Grids):
    """Sudoku of 4x4 cells with exactly one solution, which a solver has checked.

    The answer is the text in ``<answer>`` tags, or else after ``####``, or else the whole text, with single spaces. It
    is right if it is the solution and nothing else: if the scorer of reasoning-gym's ``mini_sudoku`` gives 1 to it.
    There are only 288 solutions; no two splits share a puzzle.

    Args:
        difficulty: Number of blanks: ``easy`` 6, ``standard`` 8, ``hard`` 10.
        blanks: Number of blanks, 1 to 12, instead of the difficulty's.
        wording: ``question``: the rules and the puzzle. ``grid``: the puzzle alone, which :meth:`tokenizer` can encode.
        seed: Seed of the puzzles. The split of a puzzle does not depend on it.

    Raises:
        UserError: If an option is unknown or out of range.
    """

    side = 4
    blanks_of: ClassVar[dict[str, int]] = {"easy": 6, "standard": 8, "hard": 10}
    most_blanks = 12


def side_of(task_class: type[Task]) -> int | None:
    """Return the number of rows of the puzzles of a Sudoku task, None for another task."""
    return task_class.side if issubclass(task_class, _Grids) else None


class _Draws:
    """The puzzles of a split, drawn as they are asked for."""

    def __init__(self, side: int, blanks: int, split: Split, seed: int) -> None:
        self.solver, self.blanks, self.split = Solver(side), blanks, split
        self.rng = random.Random(stable_seed("sudoku", side, blanks, split, seed))
        self.seen: set[str] = set()
        self.puzzles: list[tuple[Board, Board]] = []
        self.misses = 0  # since the last puzzle; kept, so that there are no more of them whenever one asks again

    def extend(self, n: int) -> None:
        """Draw until there are ``n`` puzzles, or no new one comes."""
        while len(self.puzzles) < n and self.misses < _PATIENCE:
            self.misses += 1
            solution = self.solver.solution(self.rng)
            # Emptying a large grid takes long, so its solution decides the split; small ones have few solutions.
            if self.solver.side > 4 and split_of(grid_text(solution)) != self.split:
                continue
            puzzle = self.solver.emptied(solution, self.blanks, self.rng)
            if puzzle is None or (text := grid_text(puzzle)) in self.seen:
                continue
            if self.solver.side > 4 or split_of(text) == self.split:
                self.seen.add(text)
                self.puzzles.append((puzzle, solution))
                self.misses = 0


def grid_text(board: Board) -> str:
    """Return a board as rows of numbers with spaces between them; an empty cell is ``_``."""
    side = round(len(board) ** 0.5)
    cells = [str(value) if value else "_" for value in board]
    return "\n".join(" ".join(cells[begin : begin + side]) for begin in range(0, side * side, side))


def extracted_grid(text: str) -> str | None:
    """Return the lines of an answer with single spaces: in ``<answer>`` tags, or else after ``####``, or else all."""
    _, opened, rest = text.rpartition("<answer>")
    answer = rest.partition("</answer>")[0] if opened and "</answer>" in rest else answer_part(text)
    lines = (" ".join(line.split()) for line in answer.splitlines())
    return "\n".join(line for line in lines if line) or None


def _is_grid(answer: str, text: str) -> bool:
    return extracted_grid(text) == answer
