import itertools
import math
import random

import numpy as np
import pytest
import torch

import dmaxlit
from dmaxlit.evaluation.blank_order import blank_order, blanks_of, mean_ranks, tokens_at
from dmaxlit.evaluation.bootstrap import bootstrap_mean
from dmaxlit.evaluation.order_figures import AnswerOrder
from dmaxlit.tasks.sudoku_difficulty import blank_difficulties

TASK = dmaxlit.task("mini_sudoku", difficulty="hard", wording="grid")
TOKENIZER = TASK.tokenizer()


def answered(example, finalized, text=None):
    text = example.answer if text is None else text
    ids = (*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id)
    right = example.check(text)
    text = TOKENIZER.decode(ids[:-1])
    return AnswerOrder(torch.tensor(finalized), torch.zeros(len(ids)).long(), right, example.prompt, text, ids)


def puzzle_of(example):
    return [0 if value == "_" else int(value) for value in example.prompt.split()]


def tau_b(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    surplus = sum(np.sign(x[j] - x[i]) * np.sign(y[j] - y[i]) for i, j in pairs)
    untied = [sum(values[i] != values[j] for i, j in pairs) for values in (x, y)]
    return surplus / math.sqrt(untied[0] * untied[1]) if min(untied) else math.nan


def random_orders(count=8):
    rng = random.Random(4)
    examples = TASK.examples("test", count)
    return examples, [[rng.randint(1, 5) for _ in range(20)] for _ in examples]


def test_figures_are_those_of_a_plain_count():
    examples, finalized = random_orders()
    result = blank_order([answered(e, f) for e, f in zip(examples, finalized, strict=True)], 4, TOKENIZER, 100, 1)
    assert (result.puzzles, result.answers) == (8, 8)
    taus, ranks = [], {}
    for example, forwards in zip(examples, finalized, strict=True):
        difficulty = blank_difficulties(puzzle_of(example))
        # A line has four cells and a line end; the first token of a line is number 5 * row.
        when = {cell: forwards[5 * (cell // 4) + cell % 4] for cell in difficulty}
        taus.append(tau_b(list(when.values()), [difficulty[cell].candidates for cell in when]))
        for cell, forward in when.items():
            before = sum(other < forward for other in when.values())
            together = sum(other == forward for other in when.values())
            rank = before + (together + 1) / 2
            ranks.setdefault(difficulty[cell].candidates, []).append(rank)
    expected = bootstrap_mean(np.array(taus), 100, 1)
    ours = result.correlation["candidates"]
    assert (ours.mean, ours.low, ours.high) == pytest.approx((expected.mean, expected.low, expected.high))
    rows = {row.value: row for row in result.rows if row.measure == "candidates"}
    assert set(rows) == set(ranks)
    for value, row in rows.items():
        assert row.blanks == len(ranks[value])
        assert row.rank.mean == pytest.approx(sum(ranks[value]) / len(ranks[value]))
        assert row.right.mean == 1


@pytest.mark.parametrize(("direction", "expected"), [(1, 1.0), (-1, -1.0)])
def test_a_decoder_that_fills_easier_blanks_first_or_last_has_tau_one_or_minus_one(direction, expected):
    orders = []
    for example in TASK.examples("test", 4):
        difficulty = blank_difficulties(puzzle_of(example))
        forwards = [9] * 20
        for cell, item in difficulty.items():
            forwards[5 * (cell // 4) + cell % 4] = 10 + direction * item.rounds
        orders.append(answered(example, forwards))
    result = blank_order(orders, 4, TOKENIZER)
    assert result.correlation["rounds"].mean == pytest.approx(expected)
    ranks = [row.rank.mean for row in result.rows if row.measure == "rounds"]
    assert ranks == sorted(ranks, reverse=direction < 0)


def test_wrong_values_count_and_answers_that_are_no_grid_do_not():
    example = TASK.examples("test", 1)[0]
    cell = next(iter(blank_difficulties(puzzle_of(example))))
    values = example.answer.replace("\n", " \n ").split(" ")
    position = [i for i, value in enumerate(values) if value != "\n"][cell]
    values[position] = str(int(values[position]) % 4 + 1)
    wrong = answered(example, range(1, 21), " ".join(values))
    blanks = blanks_of(wrong, 4, TOKENIZER)
    assert blanks.filled_right.tolist() == [False, *[True] * (len(blanks.filled_right) - 1)]
    short = answered(example, range(1, 16), "\n".join(example.answer.splitlines()[:3]))
    result = blank_order([wrong, short], 4, TOKENIZER)
    assert (result.puzzles, result.answers) == (1, 2)
    assert blank_order([short], 4, TOKENIZER).to_dict()["correlation"]["candidates"]["mean"] is None


def test_tokens_of_characters_are_found_and_other_tokens_refused():
    ids = TOKENIZER("4 2\n3 1")["input_ids"]
    text = TOKENIZER.decode(ids)
    assert tokens_at([text.index("4"), text.index("1")], ids, text, TOKENIZER) == [0, 4]
    assert tokens_at([text.index("4")], ids, text.replace("4", "3"), TOKENIZER) is None
    assert tokens_at([len(text) + 3], ids, text + " 1 1", TOKENIZER) is None


def test_ranks_of_ties_are_their_mean():
    assert mean_ranks(torch.tensor([5, 1, 5, 2])).tolist() == [3.5, 1.0, 3.5, 2.0]
