import pytest

from dmaxlit import UserError
from dmaxlit.callbacks import NextTokenTraining, ViewDiagnostics
from dmaxlit.training.objective import VIEWS, Objective, objective_of


class Denoising:
    objective = Objective("denoising", passes=3)


class OfOneS:
    """A callback of one's own, whose attribute has another meaning."""

    objective = "loss"


def test_the_objective_is_that_of_the_callback_that_has_one():
    assert objective_of([]) is objective_of([ViewDiagnostics(), OfOneS()]) is VIEWS
    assert objective_of([ViewDiagnostics(), NextTokenTraining()]) == Objective("next token", whole_logits=False)
    assert objective_of([OfOneS, Denoising]) is Denoising.objective


def test_two_that_replace_the_losses_are_refused():
    with pytest.raises(UserError, match=r"^trainer.callbacks: expected at most one that .*, got 'next .*' and 'deno"):
        objective_of([NextTokenTraining, Denoising])
