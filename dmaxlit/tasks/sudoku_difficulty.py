"""How hard each blank of a Sudoku is, and where its cells are in a text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dmaxlit.tasks.sudoku_solver import Board, Solver, groups

_UNSETTLED = 0


@dataclass(frozen=True)
class BlankDifficulty:
    """Two measures of the difficulty of a blank.

    Args:
        candidates: Number of values that no given of its row, column and box has.
        rounds: Rounds of constraint propagation after which its value is known. A round fills, at once, each blank with
            one candidate and each value that has one cell left in a row, column or box. A blank that propagation leaves
            open has one more than the last round.
    """

    candidates: int
    rounds: int


def blank_difficulties(puzzle: Sequence[int]) -> dict[int, BlankDifficulty]:
    """Return the difficulty of each blank, by the number of its cell.

    Args:
        puzzle: 16 or 81 values row by row; 0 is a blank.
    """
    side = round(len(puzzle) ** 0.5)
    solver, board = Solver(side), list(puzzle)
    blanks = [cell for cell, value in enumerate(puzzle) if value == 0]
    candidates = {cell: len(solver.candidates(board, cell)) for cell in blanks}
    rounds, number = dict.fromkeys(blanks, _UNSETTLED), 0
    while settled := _settled(solver, board):
        number += 1
        for cell, value in settled.items():
            board[cell], rounds[cell] = value, number
    return {cell: BlankDifficulty(candidates[cell], rounds[cell] or number + 1) for cell in blanks}


def _settled(solver: Solver, board: Board) -> dict[int, int]:
    """Return the cells whose value follows from the board in one step, with the value."""
    possible = {cell: solver.candidates(board, cell) for cell, value in enumerate(board) if value == 0}
    settled = {cell: values[0] for cell, values in possible.items() if len(values) == 1}
    for group in groups(solver.side):
        for value in range(1, solver.side + 1):
            cells = [cell for cell in group if value in possible.get(cell, ())]
            if len(cells) == 1:
                settled.setdefault(cells[0], value)
    return settled


def grid_cells(text: str, side: int) -> list[int] | None:
    """Return the index in a text of each cell of the last grid in it, row by row; None if there is none.

    A grid is ``side`` lines in succession of ``side`` digits from 1 to ``side``, or ``_``, with spaces between them.

    Args:
        text: A prompt or an answer.
        side: Number of rows: 4 or 9.
    """
    line = rf"[ \t]*[1-{side}_](?:[ \t]+[1-{side}_]){{{side - 1}}}[ \t]*"
    grids = list(re.finditer(rf"^{line}(?:\n{line}){{{side - 1}}}$", text, re.MULTILINE))
    if not grids:
        return None
    begin, end = grids[-1].span()
    return [index for index in range(begin, end) if not text[index].isspace()]


def board_at(text: str, cells: Sequence[int]) -> Board:
    """Return the values of the cells of a grid in a text; ``_`` is 0."""
    return [0 if text[index] == "_" else int(text[index]) for index in cells]
