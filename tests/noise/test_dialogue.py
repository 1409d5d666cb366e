import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import LogitsPrediction, View, dialogue
from tests.conftest import make_batch


def answer(view):
    return LogitsPrediction(torch.zeros(int(view.supervised.sum()), 38), view.supervised)


def test_every_view_comes_with_its_prediction_which_the_strategy_receives():
    clean = make_batch()
    received = []

    def views():
        for name in "abc":
            received.append((yield View(clean.ids, clean.response, name)))

    pairs = list(dialogue(views(), answer))
    assert [view.name for view, _ in pairs] == ["a", "b", "c"]
    assert all(one is two for one, (_, two) in zip(received, pairs, strict=True))


def test_a_view_is_built_only_after_the_one_before_it_has_been_used():
    clean, events = make_batch(), []

    def views():
        for name in "ab":
            events.append(f"build {name}")
            yield View(clean.ids, clean.response, name)

    for view, _ in dialogue(views(), answer):
        events.append(f"use {view.name}")
    assert events == ["build a", "use a", "build b", "use b"]


def test_a_strategy_without_views_has_no_dialogue():
    assert not list(dialogue(iter(()), answer))


@pytest.mark.parametrize("before", [(), ("step of a rollout",)])
def test_a_view_with_a_loss_that_is_yielded_inside_no_grad_is_refused(before):
    clean = make_batch()

    def views():
        with torch.no_grad():
            for name in before:
                yield View(clean.ids, clean.response, name, weight=0.0)
            yield View(clean.ids, clean.response, "masked")

    with pytest.raises(UserError, match=r"expected view 'masked' to be yielded outside of torch\.no_grad\(\)"):
        list(dialogue(views(), answer))
    assert torch.is_grad_enabled()
    with torch.no_grad():  # as in a preview
        assert len(list(dialogue(views(), answer))) == len(before) + 1


def test_a_step_of_a_rollout_may_be_yielded_inside_no_grad_and_a_decorator_holds_for_the_strategy_alone():
    clean = make_batch()

    @torch.no_grad()
    def views():
        yield View(clean.ids, clean.response, "masked")

    def rollout():
        with torch.no_grad():
            yield View(clean.ids, clean.response, "step", weight=0.0)
        yield from views()

    assert [view.name for view, _ in dialogue(rollout(), answer)] == ["step", "masked"]
