"""A small report on decoding order; a model, and the process that runs suites."""

import math

import pytest
import torch

from dmaxlit.evaluation.blank_order import BlankOrder, DifficultyRow
from dmaxlit.evaluation.bootstrap import Estimate
from dmaxlit.evaluation.order_figures import AnswerOrder
from dmaxlit.evaluation.order_report import OrderReport, OrderSource
from tests.evaluation.suites import one_process, tiny_module

SURE = Estimate(0.5, 0.25, 0.75, 8)
RIGHT = Estimate(0.9, 0.8, 1.0, 8)
NONE = Estimate(math.nan, math.nan, math.nan, 0)


@pytest.fixture
def report():
    orders = [
        AnswerOrder(torch.tensor([1, 1, 2, 2, 2, 2]), torch.zeros(6).long(), True),
        AnswerOrder(torch.tensor([1, 1, 1]), torch.zeros(3).long(), False),
    ]
    rows = [DifficultyRow("candidates", 1, 5, SURE, RIGHT), DifficultyRow("rounds", 1, 5, SURE, RIGHT)]
    blanks = BlankOrder(2, 3, {"candidates": SURE, "rounds": NONE}, rows)
    return OrderReport("mini_sudoku", "spd", OrderSource("", "", orders).report().rows, blanks)


@pytest.fixture(scope="module")
def module():
    return tiny_module()


@pytest.fixture
def ranks():
    return one_process()
