"""Properties run in pytest and anywhere else, and leave no trace."""

import random

import numpy as np
import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import MaskedNoise
from dmaxlit.testing import ContractError, Property, decoder_properties, noise_properties
from dmaxlit.testing.property import changed_generator, seed_global_generators


def test_a_property_is_named_and_raises_what_pytest_shows_as_a_failure():
    def refuse():
        raise UserError("level: expected less, got more")

    check = Property("less is more", refuse)
    assert str(check) == "less is more"
    with pytest.raises(AssertionError, match=r"^level: expected less, got more$") as error:
        check()
    assert type(error.value) is ContractError


def test_other_exceptions_pass_with_their_traceback():
    def fail():
        raise IndexError("own")

    with pytest.raises(IndexError, match="own"):
        Property("fails", fail)()


def test_global_generators_are_left_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for check in [*noise_properties("on_policy"), *decoder_properties("spd")]:
        check()
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("use", "name"),
    [(torch.rand, "torch"), (np.random.rand, "numpy"), (lambda n: random.random(), "python"), (int, None)],
)
def test_a_global_generator_that_was_used_is_named(use, name):
    seed_global_generators(0)
    use(1)
    assert changed_generator() == name


def test_names_differ_and_an_order_is_kept():
    for checks in (noise_properties("masked"), decoder_properties("threshold")):
        names = [str(check) for check in checks]
        assert len(set(names)) == len(names)
    assert [str(check) for check in noise_properties(MaskedNoise)] == [
        str(check) for check in noise_properties("masked")
    ]


def test_pytest_is_not_needed(processes, tmp_path):
    (tmp_path / "alone.py").write_text("import sys, dmaxlit.testing\nsys.exit('pytest' in sys.modules)\n")
    assert processes.run([], tmp_path / "log", module="alone", folder=tmp_path) == [0]


THREE_LINES = """
import pytest
from dmaxlit.testing import noise_properties

@pytest.mark.parametrize("check", noise_properties("masked", level=0.5), ids=str)
def test_my_noise(check):
    check()
"""


def test_three_lines_in_a_file_give_a_test_for_each_property(processes, tmp_path):
    (tmp_path / "test_mine.py").write_text(THREE_LINES)
    args = ["-v", "-p", "no:cacheprovider", "test_mine.py"]
    assert processes.run(args, tmp_path / "log", module="pytest", folder=tmp_path) == [0]
    output = (tmp_path / "log").read_text()
    names = [str(check) for check in noise_properties("masked")]
    assert f"{len(names)} passed" in output
    assert all(f"test_my_noise[{name}] PASSED" in output for name in names)
