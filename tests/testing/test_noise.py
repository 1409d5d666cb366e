"""Each property of a noise strategy is broken by one strategy of ``broken_noise.py``, and found."""

from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import MaskedNoise, NoiseStrategy, View
from dmaxlit.testing import noise_properties
from tests.testing.broken import assert_found, failures
from tests.testing.broken_noise import (
    BROKEN,
    FloatMask,
    GlobalRandom,
    IgnoresLevel,
    Own,
    ReturnsList,
    YieldsInNoGrad,
    YieldsNothing,
)


class WithoutLevel(NoiseStrategy):
    """Masks the second half of each response."""

    def __init__(self):
        pass

    def views(self, clean, generator):
        length = clean.response.sum(1, keepdim=True)
        masked = clean.response & (clean.response.cumsum(1) > length // 2)
        yield View(clean.with_masks(masked), masked, "half", is_masked=masked)


class Replaces(NoiseStrategy):
    """Replaces tokens by random ones, and has its own level, a number."""

    def __init__(self, level: float = 0.5):
        self.rate = level

    def views(self, clean, generator):
        u, tokens = generator.rand(clean.ids.shape[1]), generator.rand(clean.ids.shape[1])
        ids = torch.where(clean.response & (u < self.rate), (tokens * clean.special.mask_id).long(), clean.ids)
        yield View(ids, clean.response, "random")


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_property_is_found_by_its_own_test(cls):
    assert_found(noise_properties(cls), *BROKEN[cls])


def test_every_property_is_broken_by_a_strategy():
    assert {str(check) for check in noise_properties(Own)} == {name for name, _ in BROKEN.values()}


# Whatever else these break follows from the one thing that is wrong.
@pytest.mark.parametrize(
    "cls",
    [
        cls
        for cls in BROKEN
        if cls not in (ReturnsList, FloatMask, YieldsNothing, YieldsInNoGrad, GlobalRandom, IgnoresLevel)
    ],
    ids=lambda cls: cls.__name__,
)
def test_what_is_right_passes(cls):
    assert len(failures(noise_properties(cls))) <= 4, failures(noise_properties(cls))


@pytest.mark.parametrize("cls", [Own, WithoutLevel, Replaces], ids=lambda cls: cls.__name__)
def test_a_right_strategy_has_every_property(cls):
    assert failures(noise_properties(cls)) == {}


def test_a_strategy_without_a_level_has_fewer_properties():
    names = [str(check) for check in noise_properties(WithoutLevel)]
    assert names == [str(check) for check in noise_properties(Own)][: len(names)]
    assert not [name for name in names if "level" in name]


def test_a_level_that_is_passed_on_is_recognised():
    class Passes(Own):
        def __init__(self, more: int = 1, **corruption):
            super().__init__(**corruption)

    class PassesNothing(WithoutLevel):
        def __init__(self, **more):
            super().__init__(**more)

    assert "levels follow the step" in map(str, noise_properties(Passes))
    assert "levels follow the step" not in map(str, noise_properties(PassesNothing))
    assert failures(noise_properties(Passes, more=2)) == failures(noise_properties(PassesNothing)) == {}


def test_options_are_those_of_every_strategy():
    class Optional(Own):
        def __init__(self, wrong: bool = False, **corruption):
            super().__init__(**corruption)
            self.wrong = wrong

        def change(self, view, clean, generator):
            return replace(view, name="second") if self.wrong else view

    assert failures(noise_properties(Optional)) == {}
    assert list(failures(noise_properties(Optional, wrong=True))) == ["view names differ"]
    assert failures(noise_properties(Own, per="block", stratified=True)) == {}


def test_an_abstract_class_is_refused():
    with pytest.raises(UserError, match="noise: expected a class that implements views, got NoiseStrategy"):
        noise_properties(NoiseStrategy)


@pytest.mark.parametrize(
    ("noise", "options", "message"),
    [
        ("masked", {"foo": 1}, "noise 'masked': unknown option foo; known: "),
        ("on_policy", {"rollout": 3}, "rollout: expected 'sample' or 'argmax', got 3"),
        (5, {}, "noise: expected a name or a subclass of NoiseStrategy, got a value of type int"),
        (MaskedNoise(), {}, "noise: expected a name or a subclass of NoiseStrategy, got a value of type MaskedNoise"),
    ],
)
def test_what_makes_no_strategy_is_refused(noise, options, message):
    with pytest.raises(UserError, match=message):
        noise_properties(noise, **options)
