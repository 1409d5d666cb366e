import torch

from dmaxlit.evaluation.order_figures import AnswerOrder
from dmaxlit.evaluation.order_report import OrderSource, order_table


def test_the_table_has_a_row_for_each_group_and_each_difficulty(report):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in order_table([report]).splitlines()]
    groups = {line[2]: line[3:] for line in lines if line[0] == "mini_sudoku"}
    assert list(groups) == ["all", "right", "wrong", "first third", "middle third", "last third"]
    assert groups["right"] == ["1", "3.00 [3.00, 3.00]", "0.73 [0.73, 0.73]", "0.73 [0.73, 0.73]"]
    assert groups["wrong"] == ["1", "3.00 [3.00, 3.00]", "-", "-"]
    assert ["candidates", "1", "5", "0.50 [0.25, 0.75]", "90.0 [80.0, 100.0]"] in lines
    assert "2 of 3 answers are complete grids" in order_table([report])
    assert "candidates 0.50 [0.25, 0.75], rounds -." in order_table([report])


def test_without_verdicts_right_and_wrong_are_absent():
    orders = [AnswerOrder(torch.tensor([1, 2]), torch.tensor([0, 0]), None)]
    table = order_table([OrderSource("chain", "spd", orders).report()])
    assert "right" not in table
    assert "| all " in table


def test_a_figure_that_some_answers_do_not_have_says_over_how_many_it_is(report):
    everyone = next(line for line in order_table([report]).splitlines() if "| all " in line)
    assert "0.73 [0.73, 0.73] (1) | 0.73 [0.73, 0.73] (1)" in everyone
