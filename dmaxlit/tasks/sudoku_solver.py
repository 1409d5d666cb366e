"""Sudoku of any box size: counting solutions, and puzzles with exactly one."""

import random
from collections.abc import Sequence

from dmaxlit.tasks.drawing import drawn

Board = list[int]  # row by row; 0 is an empty cell


def groups(side: int) -> list[list[int]]:
    """Return the cells of each row, column and box.

    Args:
        side: Number of rows; the square of the side of a box.
    """
    box, numbers = round(side**0.5), range(side)
    rows = [[row * side + column for column in numbers] for row in numbers]
    columns = [[row * side + column for row in numbers] for column in numbers]
    corners = [row * side + column for row in range(0, side, box) for column in range(0, side, box)]
    boxes = [[corner + row * side + column for row in range(box) for column in range(box)] for corner in corners]
    return rows + columns + boxes


def peers(side: int) -> list[tuple[int, ...]]:
    """Return for each cell the others of its row, column and box.

    Args:
        side: Number of rows; the square of the side of a box.
    """
    others: list[set[int]] = [set() for _ in range(side**2)]
    for group in groups(side):
        for cell in group:
            others[cell].update(group)
    return [tuple(sorted(cells - {cell})) for cell, cells in enumerate(others)]


class Solver:
    """Solves boards of one size.

    Args:
        side: Number of rows: 4 or 9.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.peers = peers(side)

    def candidates(self, board: Sequence[int], cell: int) -> list[int]:
        """Return the values that no cell of the same row, column or box has."""
        taken = {board[other] for other in self.peers[cell]}
        return [value for value in range(1, self.side + 1) if value not in taken]

    def count(self, board: Sequence[int], limit: int = 2) -> int:
        """Return the number of solutions, up to ``limit``."""
        return len(self.solutions(list(board), limit))

    def solutions(self, board: Board, limit: int, rng: random.Random | None = None) -> list[Board]:
        """Return up to ``limit`` solutions, tried in ascending order, or in an order that ``rng`` draws."""
        cell = self._hardest(board)
        if cell is None:
            return [list(board)]
        found: list[Board] = []
        values = self.candidates(board, cell)
        if rng is not None:
            values = drawn(rng, values)
        for value in values:
            board[cell] = value
            found += self.solutions(board, limit - len(found), rng)
            if len(found) == limit:
                break
        board[cell] = 0
        return found

    def solution(self, rng: random.Random) -> Board:
        """Draw a complete board."""
        return self.solutions([0] * self.side**2, 1, rng)[0]

    def emptied(self, solution: Board, blanks: int, rng: random.Random) -> Board | None:
        """Empty cells of a complete board, drawn one by one, as long as it stays the only solution.

        Args:
            solution: The board.
            blanks: Number of cells to empty.
            rng: Source of randomness.

        Returns:
            The puzzle; None if not so many cells can be emptied in the order drawn.
        """
        board = list(solution)
        for cell in drawn(rng, range(self.side**2)):
            if board.count(0) == blanks:
                break
            board[cell] = 0
            if self.count(board) > 1:
                board[cell] = solution[cell]
        return board if board.count(0) == blanks else None

    def _hardest(self, board: Sequence[int]) -> int | None:
        """Return the empty cell with the fewest candidates, or None if none is empty."""
        empty = [cell for cell, value in enumerate(board) if value == 0]
        return min(empty, key=lambda cell: len(self.candidates(board, cell)), default=None)
