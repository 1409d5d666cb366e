import itertools

import pytest

import dmaxlit
from dmaxlit.tasks.sudoku_difficulty import BlankDifficulty, blank_difficulties, board_at, grid_cells

PUZZLE = [0, 2, 0, 0, 0, 0, 2, 4, 0, 3, 4, 0, 0, 0, 0, 3]


def share_a_group(a, b, side):
    box = {4: 2, 9: 3}[side]
    (row, column), (other_row, other_column) = divmod(a, side), divmod(b, side)
    return (
        row == other_row
        or column == other_column
        or (row // box == other_row // box and column // box == other_column // box)
    )


def reference(puzzle, side):
    """Return candidates and rounds of each blank, from the rules alone."""

    def allowed(board, cell, value):
        return all(board[o] != value or not share_a_group(o, cell, side) for o in range(side * side) if o != cell)

    blanks = [cell for cell in range(side * side) if puzzle[cell] == 0]
    candidates = {cell: sum(allowed(puzzle, cell, value) for value in range(1, side + 1)) for cell in blanks}
    board, rounds = list(puzzle), {}
    for number in itertools.count(1):
        box = {4: 2, 9: 3}[side]
        units = [[c for c in range(side * side) if c // side == k] for k in range(side)]
        units += [[c for c in range(side * side) if c % side == k] for k in range(side)]
        units += [
            [c for c in range(side * side) if (c // side // box, c % side // box) == corner]
            for corner in itertools.product(range(side // box), repeat=2)
        ]
        fits = {(c, v) for c in blanks if board[c] == 0 for v in range(1, side + 1) if allowed(board, c, v)}
        new = {c: v for c, v in fits if sum(o == c for o, _ in fits) == 1}
        new |= {c: v for unit in units for c, v in fits if c in unit and sum((o, v) in fits for o in unit) == 1}
        if not new:
            return {cell: BlankDifficulty(candidates[cell], rounds.get(cell, number)) for cell in blanks}
        for cell, value in new.items():
            board[cell], rounds[cell] = value, number


@pytest.mark.parametrize("name", ["mini_sudoku", "sudoku"])
def test_candidates_and_rounds_are_those_of_the_rules(name):
    side = dmaxlit.task(name).side
    task = dmaxlit.task(name, difficulty="hard", wording="grid")
    seen = set()
    for example in task.examples("test", 12 if side == 4 else 2):
        puzzle = board_at(example.prompt, grid_cells(example.prompt, side))
        assert blank_difficulties(puzzle) == reference(puzzle, side)
        seen |= {(item.candidates, item.rounds) for item in blank_difficulties(puzzle).values()}
    assert len({candidates for candidates, _ in seen}) > 2
    assert len({rounds for _, rounds in seen}) > 1


def test_a_hand_made_puzzle():
    found = blank_difficulties(PUZZLE)
    assert found[0] == BlankDifficulty(3, 1)  # 1, 3 and 4 are left, but 4 fits nowhere else in the row
    assert found[5] == BlankDifficulty(1, 1)  # beside 2 and 4, below 2, above 3


def test_a_blank_that_propagation_leaves_open_comes_last():
    assert set(blank_difficulties([0] * 16).values()) == {BlankDifficulty(4, 1)}


def test_the_last_grid_of_a_text_is_found_with_its_lines_and_spaces():
    rows = ["1 2 3 4", "3 4 1 2", "2 1 4 3", "4 3 2 1"]
    text = "Take\n" + "\n".join(reversed(rows)) + "\nand then\n" + " \n ".join(rows) + "  \nso it is 1 2 3 4"
    cells = grid_cells(text, 4)
    assert board_at(text, cells) == [int(value) for row in rows for value in row.split()]
    assert cells[0] == text.rindex("1 2 3 4 \n")
    question = dmaxlit.task("sudoku").examples("test", 1)[0]
    assert board_at(question.prompt, grid_cells(question.prompt, 9)).count(0) == 40


@pytest.mark.parametrize("text", ["", "1 2 3 4", "1 2 3 4\n3 4 1 2\n2 1 4 3", "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 5"])
def test_other_texts_have_no_grid(text):
    assert grid_cells(text, 4) is None
