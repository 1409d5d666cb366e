"""What every registered task must do that needs no data from elsewhere."""

import pytest

from dmaxlit.tasks import TASKS
from dmaxlit.testing import task_properties

CASES = [
    pytest.param(check, id=f"{name}: {check}")
    for name in TASKS
    if TASKS.get(name).self_contained and name != "sudoku"  # as mini_sudoku, with puzzles that take long to draw
    for check in task_properties(name)
]


@pytest.mark.parametrize("check", CASES)
def test_property(check):
    check()
