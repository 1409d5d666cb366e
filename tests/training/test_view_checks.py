"""A noise strategy of the user's own that breaks a rule is named together with the rule, in the first steps."""

import re
from dataclasses import replace

import pytest
import torch

from dmaxlit import DMaxModule, UserError
from dmaxlit.noise import NOISE, MaskedNoise, NoiseStrategy, OnPolicyNoise, View
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import SoftTokens
from tests.conftest import make_batch, make_denoiser


def losses(strategy, times=1, clean=None, **options):
    module = DMaxModule(make_denoiser(), strategy, **options)
    for _ in range(times):
        result = module.view_losses(clean or make_batch(), RowGenerator(0, [0, 1, 2]))
    return result


class Own(NoiseStrategy):
    """A strategy that is right, of which each below changes one thing."""

    def views(self, clean, generator):
        masked = self.corrupt(clean, generator).positions
        view = View(clean.with_masks(masked), supervised=masked, name="own", is_masked=masked)
        yield from self.change(view, clean)

    def change(self, view, clean):
        yield view


class TouchesPrompt(Own):
    def change(self, view, clean):
        yield replace(view, ids=torch.where(clean.roles == 1, 5, view.ids))


class TouchesPads(Own):
    def change(self, view, clean):
        yield replace(view, ids=torch.where(clean.roles == 0, 5, view.ids))


class WritesClean(Own):
    def change(self, view, clean):
        clean.ids[:, 0] = 36
        yield replace(view, ids=torch.where(clean.response, view.ids, clean.ids))


class SupervisesPads(Own):
    def change(self, view, clean):
        yield replace(view, supervised=torch.ones_like(view.supervised))


class TwoOfOneName(Own):
    def change(self, view, clean):
        yield view
        yield view


class FloatMask(Own):
    def change(self, view, clean):
        yield replace(view, supervised=view.supervised.float())


class FloatIsMasked(Own):
    def change(self, view, clean):
        yield replace(view, is_masked=view.is_masked.float())


class OneRow(Own):
    def change(self, view, clean):
        yield replace(view, ids=view.ids[:1])


class FloatIds(Own):
    def change(self, view, clean):
        yield replace(view, ids=view.ids.float())


class OddIds(Own):
    def change(self, view, clean):
        yield replace(view, ids=torch.where(view.is_masked, 99, view.ids), is_masked=None)


class MasksElsewhere(Own):
    def change(self, view, clean):
        yield replace(view, is_masked=clean.response)


class OddWeight(Own):
    def change(self, view, clean):
        yield replace(view, weight=torch.ones(3))


class SoftPrompt(Own):
    def change(self, view, clean):
        weights = torch.ones(*view.ids.shape, 1)
        yield replace(view, soft=SoftTokens(view.ids.unsqueeze(-1), weights, torch.ones_like(clean.response)))


class SoftBlanks(Own):
    def change(self, view, clean):
        ids = torch.where(clean.response, view.ids, -1).unsqueeze(-1)
        yield replace(view, soft=SoftTokens(ids, torch.ones(*view.ids.shape, 1), clean.response))


class TwoWidths(Own):
    def change(self, view, clean):
        weights = torch.full((*view.ids.shape, 2), 0.5)
        yield replace(view, soft=SoftTokens(view.ids.unsqueeze(-1), weights, clean.response))


class NoName(Own):
    def change(self, view, clean):
        yield replace(view, name=None)


class YieldsTensors(Own):
    def change(self, view, clean):
        yield view.ids


class YieldsNothing(Own):
    def change(self, view, clean):
        yield from ()


class ReturnsList(Own):
    def views(self, clean, generator):
        return [View(clean.ids, clean.response, "own")]


class ReturnsView(Own):
    def views(self, clean, generator):
        return View(clean.ids, clean.response, "own")


BROKEN = {
    TouchesPrompt: "expected view 'own' to leave prompts and pads as they are, but it changed some",
    TouchesPads: "expected view 'own' to leave prompts and pads as they are, but it changed some",
    WritesClean: "expected view 'own' to leave the clean batch unchanged, but it wrote to its ids",
    SupervisesPads: "expected view 'own' to supervise positions of the response only, but it supervises prompts or "
    "pads",
    TwoOfOneName: "expected a name of its own for each view, got 'own' twice",
    FloatMask: "expected supervised of view 'own' to be bool of shape [3, 24], got float32 of shape [3, 24]",
    FloatIsMasked: "expected is_masked of view 'own' to be bool of shape [3, 24], got float32 of shape [3, 24]",
    OneRow: "expected ids of view 'own' to be int64 of shape [3, 24], got int64 of shape [1, 24]",
    FloatIds: "expected ids of view 'own' to be int64 of shape [3, 24], got float32 of shape [3, 24]",
    OddIds: "expected view 'own' to hold token ids from 0 to 37, got others",
    MasksElsewhere: "expected view 'own' to hold the mask token where is_masked says so, but it holds others",
    OddWeight: "expected weight of view 'own' to be a number or of shape [3, 24], got float32 of shape [3]",
    SoftPrompt: "expected view 'own' to put soft tokens in the response only, but it puts them in prompts or pads",
    SoftBlanks: "expected view 'own' to hold soft tokens from 0 to 37 at all positions, got others",
    TwoWidths: "expected soft.ids of view 'own' to be int64 of shape [3, 24, 2], got int64 of shape [3, 24, 1]",
    NoName: "expected a text as a view's name, got None",
    YieldsTensors: "expected views to yield a View, got int64 of shape [3, 24]",
    YieldsNothing: "expected at least one view, got none",
    ReturnsList: "expected views to be a generator, which yields its views, got a value of type list",
    ReturnsView: "expected views to be a generator, which yields its views, got a value of type View",
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_rule_is_named_in_one_line(cls):
    with pytest.raises(UserError, match=f"^{re.escape(f'noise {cls.__name__}: {BROKEN[cls]}')}$"):
        losses(cls(0.5))


def test_the_checks_can_be_switched_off_and_end_after_the_first_batches():
    assert len(losses(TwoOfOneName(0.5), check_noise=False)) == 2

    class Late(Own):
        count = 0

        def change(self, view, clean):
            self.count += 1
            yield view
            if self.count > self.first:
                yield view

    late = Late(0.5)
    late.first = 8
    assert len(losses(late, times=9)) == 2
    late = Late(0.5)
    late.first = 7
    with pytest.raises(UserError, match="noise Late: expected a name of its own"):
        losses(late, times=9)


def test_a_strategy_that_replaces_another_is_checked():
    module = DMaxModule(make_denoiser(), "masked")
    module.view_losses(make_batch(), RowGenerator(0, [0, 1, 2]))
    module.noise = TwoOfOneName(0.5)
    with pytest.raises(UserError, match="noise TwoOfOneName: expected a name of its own"):
        module.view_losses(make_batch(), RowGenerator(0, [0, 1, 2]))


@pytest.mark.parametrize("name", list(NOISE))
def test_right_strategies_pass_and_give_the_same_losses(name):
    cls = NOISE.get(name)
    options = {} if name == "multi_block" else {"level": 0.6}
    own = type("Own", (cls,), {"__module__": "my_file"})(**options)
    checked, known = losses(own), losses(cls(**options))
    assert [loss.name for loss in checked] == [loss.name for loss in known]
    assert all(torch.equal(a.total, b.total) for a, b in zip(checked, known, strict=True))


@pytest.mark.parametrize("cls", [MaskedNoise, OnPolicyNoise])
def test_a_subclass_of_a_known_strategy_is_checked(cls):
    class Mine(cls):
        def views(self, clean, generator):
            prediction = None
            inner = super().views(clean, generator)
            view = inner.send(prediction)
            yield replace(view, supervised=~clean.response)

    with pytest.raises(UserError, match="noise Mine: expected view 'masked' to supervise positions of the response"):
        losses(Mine(level=0.5))


class NoObjective(Own):
    def change(self, view, clean):
        yield replace(view, objectives=())


class GroupsOfAnotherShape(Own):
    def change(self, view, clean):
        yield replace(view, groups=torch.zeros_like(clean.ids))


class ListedGroups(Own):
    def change(self, view, clean):
        yield replace(view, groups=[[0, 1, 2]] * 3)


class LevelOfRows(Own):
    def change(self, view, clean):
        yield replace(view, level=torch.full((3, 1), 0.5))


class FallingGroups(Own):
    def change(self, view, clean):
        blocks = clean.ids.shape[1] // clean.block_length
        yield replace(view, groups=torch.arange(blocks).flip(0).expand(len(clean.ids), -1))


class GroupsWithPrompts(Own):
    def change(self, view, clean):
        yield replace(view, groups=torch.zeros(len(clean.ids), clean.ids.shape[1] // clean.block_length).long())


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        (NoObjective, "objectives of view 'own' to be a tuple of callables, at least one, got"),
        (GroupsOfAnotherShape, "groups of view 'own' to be int64 of shape"),
        (ListedGroups, "groups of view 'own' to be int64 of shape [3, 3], got a value of type list"),
        (LevelOfRows, "level of view 'own' to be of shape [3, 24], got float32 of shape [3, 1]"),
        (FallingGroups, "to number groups of blocks in the order of the row, but a number falls"),
        (GroupsWithPrompts, "to put a block without response tokens in a group by itself"),
    ],
)
def test_broken_objectives_groups_and_levels_are_named(strategy, problem):
    with pytest.raises(UserError, match=re.escape(problem)):
        losses(strategy())


@pytest.mark.parametrize(
    ("objective", "got"),
    [
        (lambda at: at.cross_entropy, r"float32 of shape \[\d+\]"),
        (lambda at: at.cross_entropy.sum().item(), "a value of type float"),
        (lambda at: at.hit.sum(), r"int64 of shape \[\]"),
    ],
)
def test_an_objective_that_returns_no_sum_is_named(objective, got):
    class Odd(Own):
        def change(self, view, clean):
            yield replace(view, objectives=(*view.objectives, objective))

    expected = "each objective of view 'own' to return a sum over positions, a scalar float tensor, got "
    with pytest.raises(UserError, match=f"^noise Odd: expected {expected}{got}$"):
        losses(Odd())


@pytest.mark.parametrize(
    ("figures", "problem"),
    [
        (
            {"n": (3.0, 1)},
            "figures of view 'own' to be names without spaces, each with a sum and the number of what was summed",
        ),
        ({"n": torch.ones(2)}, "figures of view 'own' to be names without spaces, each with a sum"),
        ({"own tokens": (torch.ones(()), torch.ones(()))}, "figures of view 'own' to be names without spaces"),
        ([], "figures of view 'own' to be names"),
        (
            {"loss": (torch.ones(()), torch.ones(()))},
            "to have names of their own, got 'loss', which is logged",
        ),
        ({"loss_own": (torch.ones(()), torch.ones(()))}, "to have names of their own, got 'loss_own'"),
    ],
)
def test_broken_figures_are_named(figures, problem):
    class Figures(Own):
        def change(self, view, clean):
            yield replace(view, figures=figures)

    with pytest.raises(UserError, match=re.escape(problem)):
        losses(Figures())
