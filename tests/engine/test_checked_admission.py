"""An admission policy of the user's own that returns something else is named; the others run as before."""

import re

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import make_decoder
from dmaxlit.decoding.admission import AdmissionPolicy, make_admission
from dmaxlit.engine import BlockDecoder
from tests.engine.models import lively_denoiser, make_prompts

PROMPTS = make_prompts((3, 8))


class Policy(AdmissionPolicy):
    def __init__(self, admits, restarts=lambda converged: None):
        self.admits, self.restarts = admits, restarts

    def admit(self, before, after):
        return self.admits(after.converged)

    def restarts_behind(self, before, after):
        return self.restarts(after.converged)


def decode(admission, **options):
    return BlockDecoder(lively_denoiser(), make_decoder("spd"), window=2, admission=admission, **options).decode(
        PROMPTS, 24
    )


ODD = [
    (lambda converged: converged.float(), "float32 of shape [2]"),
    (lambda converged: converged.unsqueeze(1), "bool of shape [2, 1]"),
    (lambda converged: converged.any(), "bool of shape []"),
    (lambda converged: True, "a value of type bool"),
]


@pytest.mark.parametrize(("answer", "got"), ODD)
def test_an_answer_of_another_type_or_shape_is_named_in_one_line(answer, got):
    message = f"admission Policy: expected admit to return bool of shape [2], got {got}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        decode(Policy(answer))
    message = f"admission Policy: expected restarts_behind to return bool of shape [2], got {got}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        decode(Policy(torch.zeros_like, answer))


def test_none_is_no_answer_of_admit():
    with pytest.raises(UserError, match=r"expected admit to return .*, got None"):
        decode(Policy(lambda converged: None))


def test_the_checks_change_nothing_and_can_be_switched_off():
    class Own(type(make_admission("restarting"))):
        pass

    expected = decode(make_admission("restarting"))
    assert decode(Own()) == expected
    assert decode(Own(), check_decoder=False) == expected
    with pytest.raises(AttributeError):
        decode(Policy(lambda converged: True), check_decoder=False)
