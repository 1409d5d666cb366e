import pytest

from dmaxlit import UserError
from dmaxlit.noise import NoiseStrategy, View
from dmaxlit.randomness import RowGenerator


class Forgets(NoiseStrategy):
    def __init__(self, level=0.5):
        self.level = level

    def views(self, clean, generator):
        masked = self.corrupt(clean, generator).positions
        yield View(clean.with_masks(masked), masked, "own", is_masked=masked)


def test_a_constructor_that_calls_no_other_is_named(clean):
    message = (
        r"^noise Forgets: expected its __init__ to call super\(\).__init__\(\), which sets level, per, stratified and"
    )
    with pytest.raises(UserError, match=message):
        next(Forgets().views(clean, RowGenerator(0, [0, 1, 2])))
