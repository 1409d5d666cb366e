import torch

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
