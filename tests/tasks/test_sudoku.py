import itertools
import random

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import MiniSudokuTask, split_of, task
from dmaxlit.tasks.sudoku import extracted_grid, grid_text
from dmaxlit.tasks.sudoku_solver import Solver

PUZZLE = "2 1 3 _\n_ 3 _ _\n1 4 _ _\n_ 2 4 _"
SOLUTION = "2 1 3 4\n4 3 1 2\n1 4 2 3\n3 2 4 1"
NAMES = ("mini_sudoku", "sudoku")


def board(text):
    return [0 if cell == "_" else int(cell) for cell in text.split()]


def rows_columns_boxes(side):
    box = round(side**0.5)
    for i in range(side):
        yield [side * i + j for j in range(side)]
        yield [side * j + i for j in range(side)]
        top, left = i // box * box, i % box * box
        yield [side * (top + j // box) + left + j % box for j in range(side)]


def is_solution(cells, side):
    return all(sorted(cells[cell] for cell in group) == list(range(1, side + 1)) for group in rows_columns_boxes(side))


def brute_force(puzzle, side):
    """Solutions by trying every value in every blank, in order."""
    if 0 not in puzzle:
        return [puzzle] if is_solution(puzzle, side) else []
    cell = puzzle.index(0)
    found = []
    for value in range(1, side + 1):
        if all(puzzle[other] != value for group in rows_columns_boxes(side) if cell in group for other in group):
            found += brute_force([*puzzle[:cell], value, *puzzle[cell + 1 :]], side)
    return found


def test_all_complete_boards_of_4x4_are_found():
    solver = Solver(4)
    assert solver.count([0] * 16, limit=1000) == 288


def test_the_solver_finds_what_brute_force_finds():
    solver, rng = Solver(4), random.Random(0)
    for _ in range(30):
        puzzle = [value if rng.random() < 0.4 else 0 for value in solver.solution(rng)]
        expected = brute_force(puzzle, 4)
        assert sorted(solver.solutions(list(puzzle), 1000)) == sorted(expected)
        assert solver.count(puzzle) == min(2, len(expected))
        cell = puzzle.index(0)
        assert {solution[cell] for solution in expected} <= set(solver.candidates(puzzle, cell))


@pytest.mark.parametrize(("name", "n"), [("mini_sudoku", 30), ("sudoku", 2)])
def test_a_puzzle_has_one_solution_and_its_blanks(name, n):
    sudoku = task(name, wording="grid")
    side = sudoku.side
    for example in sudoku.examples("test", n):
        puzzle, solution = board(example.prompt), board(example.answer)
        assert puzzle.count(0) == sudoku.blanks_of["standard"]
        assert brute_force(puzzle, side) == [solution]
        assert example.response == example.answer
        assert example.check(example.response)


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_are_those_of_reasoning_gyms_scorer(name):
    gym = pytest.importorskip("reasoning_gym")
    data = gym.create_dataset(name, seed=0, size=1)
    example = task(name, blanks=6).examples("test", 1)[0]
    rows = [list(map(int, line.split())) for line in example.answer.splitlines()]
    entry = {"question": example.prompt, "answer": example.answer, "metadata": {"solution": rows}}
    texts = [example.answer, example.answer + " ", example.answer.replace("\n", " \n"), example.answer[:-1], "", "1"]
    texts += [example.answer.replace("1", "2"), example.answer + "\n1 2 3 4", example.answer.replace(" ", "")]
    cells = example.answer.split(" ")
    texts += [" ".join(reversed(cells)), *(example.answer.replace(a, b, 1) for a, b in itertools.pairwise("1234"))]
    assert sum(example.check(text) for text in texts) == 3
    for text in texts:
        assert example.check(text) == (data.score_answer(extracted_grid(text) or "", entry) == 1.0), text


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_in_tags_or_after_the_mark_or_the_whole_text(name):
    example = task(name, blanks=3).examples("test", 1)[0]
    answer = example.answer
    for right in (answer, f"Here:\n<answer>\n{answer}\n</answer> done", f"so ####\n{answer}", f"  {answer}\n"):
        assert example.check(right)
        assert example.extract(right) == answer
    for wrong in (f"Here: {answer}", f"{answer}\nDone", f"#### {answer}\n#### 5", f"<answer>5</answer>{answer}", ""):
        assert not example.check(wrong)
    assert extracted_grid(" \n") is None


def test_splits_share_no_puzzle_and_seeds_agree_on_the_split():
    by_split = {}
    for split in ("train", "val", "test"):
        by_split[split] = {
            example.prompt
            for seed in (0, 1)
            for example in task("mini_sudoku", blanks=5, wording="grid", seed=seed).examples(split, 20)
        }
        assert all(split_of(prompt) == split for prompt in by_split[split])
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values())) > 100
    for example in task("sudoku", blanks=5).examples("val", 3):
        assert split_of(example.answer) == "val"


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_the_same_every_time_and_a_longer_list_begins_with_the_shorter(name):
    sudoku = task(name, blanks=4)
    longer = sudoku.examples("val", 3)
    assert sudoku.examples("val", 2) == longer[:2]
    assert task(name, **sudoku.options()).examples("val", 3) == longer
    assert task(name, blanks=4, seed=1).examples("val", 3) != longer


def test_the_puzzles_are_the_same_on_every_machine():
    (example,) = task("mini_sudoku", wording="grid").examples("test", 1)
    assert (example.prompt, example.answer) == (PUZZLE, SOLUTION)


def test_few_puzzles_run_out(monkeypatch):
    monkeypatch.setattr("dmaxlit.tasks.sudoku._PATIENCE", 60)
    with pytest.raises(UserError, match=r"n: expected at most \d+ test puzzles of 1 blanks, got 1000"):
        task("mini_sudoku", blanks=1).examples("test", 1000)


def test_the_tokenizer_writes_a_grid_that_is_right():
    example = task("mini_sudoku", wording="grid").examples("test", 1)[0]
    tokenizer = MiniSudokuTask.tokenizer()
    ids = tokenizer(example.prompt)["input_ids"]
    assert len(ids) == 19
    assert tokenizer.unk_token_id not in ids
    assert example.check(tokenizer.decode(tokenizer(example.response)["input_ids"], skip_special_tokens=True))
    assert task("mini_sudoku", wording="grid").max_new_tokens == 32
    assert task("sudoku", wording="grid").max_new_tokens == 96


def test_a_question_states_the_rules():
    prompt = task("mini_sudoku").examples("test", 1)[0].prompt
    assert prompt.startswith(
        "Complete this 4x4 Sudoku: each row, each column and each 2x2 box holds each number from 1 to 4 "
    )
    assert prompt.count("_") == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "extreme"}, "difficulty: expected 'easy', 'standard' or 'hard', got 'extreme'"),
        ({"wording": "poem"}, "wording: expected 'question' or 'grid', got 'poem'"),
        ({"blanks": 0}, "blanks: expected at least 1, got 0"),
        ({"blanks": 13}, "blanks: expected at most 12, got 13"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        task("mini_sudoku", **options)


def test_a_board_is_written_in_rows():
    assert grid_text([1, 0, 2, 3] * 4) == "\n".join(["1 _ 2 3"] * 4)
