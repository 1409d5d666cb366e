"""What every registered task must do that needs no data from elsewhere."""

import pytest

from dmaxlit.tasks import TASKS
from dmaxlit.testing import task_properties

# Nine by nine puzzles take long to draw.
OPTIONS = {"sudoku": {"difficulty": "easy"}}
CASES = [
    pytest.param(check, id=f"{name}: {check}")
    for name in TASKS
    if TASKS.get(name).self_contained
    for check in task_properties(name, **OPTIONS.get(name, {}))
]


@pytest.mark.parametrize("check", CASES)
def test_property(check):
    check()
