"""What every registered noise strategy must hold; a new one is tested by being registered."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dmaxlit.noise import NOISE, LogitsPrediction, dialogue
from dmaxlit.randomness import RowGenerator
from dmaxlit.testing import noise_properties
from dmaxlit.tokens import Role
from tests.conftest import make_batch

# Those that take a noise level, and options that the others are tested with.
OTHERS: dict[str, list[dict[str, Any]]] = {
    "multi_block": [
        {},
        {"base": "on_policy", "group_size": 3, "ranges": [(0.001, 0.2), (0.8, 1.0)], "random_layouts": 2},
    ],
}
NAMES = [name for name in NOISE if name not in OTHERS]


def converse(strategy, clean, generator=None, logits=None):
    """Return all views; their predictions are random logits, or ``logits`` (``[batch, length, vocab]``)."""
    generator = generator or RowGenerator(0, list(range(clean.ids.shape[0])))
    if logits is None:
        logits = torch.randn(*clean.ids.shape, clean.special.vocab_size, generator=torch.Generator().manual_seed(1))
        logits[..., clean.special.mask_id] = -torch.inf
    answered = dialogue(
        strategy.views(clean, generator),
        lambda view: LogitsPrediction(logits[view.supervised], view.supervised),
        lambda request: request.ids.unsqueeze(-1) % torch.tensor([2.0, 3.0, 5.0], dtype=torch.float32),
    )
    return [view for view, _ in answered]


OPTIONS: list[dict[str, Any]] = [{}, {"per": "block", "stratified": True}]
CHECKS = [
    pytest.param(check, id=" ".join([name, *options, str(check)]))
    for name in NOISE
    for options in OTHERS.get(name, OPTIONS)
    for check in noise_properties(name, **options)
]


@pytest.mark.parametrize("check", CHECKS)
def test_a_strategy_has_the_properties_of_all(check):
    check()


# ---- what only our own promise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_level_one_masks_every_response_token_in_the_first_view(name, clean):
    first = converse(NOISE.get(name)(level=1.0), clean)[0]
    assert (first.ids[clean.response] == clean.special.mask_id).all()
    assert torch.equal(first.is_masked, clean.response)


@pytest.mark.parametrize("name", NAMES)
def test_masks_alone_are_as_many_as_the_level_says(name):
    clean = make_batch([4] * 64, [252] * 64)
    first = converse(NOISE.get(name)(level=0.3), clean)[0]
    rate = (first.ids == clean.special.mask_id)[clean.response].float().mean()
    assert abs(rate - 0.3) < 0.02  # 16,128 draws: standard deviation 0.0036


@pytest.mark.parametrize("name", NAMES)
def test_a_view_says_at_what_level_it_was_corrupted(name, clean):
    for view in converse(NOISE.get(name)(level=0.6), clean):
        level = 0.4 if view.name == "complement" else 0.6
        assert torch.allclose(view.level, torch.tensor(level).expand_as(view.level))


@pytest.mark.parametrize("name", NAMES)
def test_mixtures_are_distributions_and_stand_for_their_token(name, clean):
    for view in converse(NOISE.get(name)(level=0.6), clean):
        if view.soft is not None:
            weights = view.soft.weights[view.soft.where]
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)))
            assert torch.equal(view.soft.ids[..., 0][view.soft.where], view.ids[view.soft.where])
            assert not (view.soft.where & (view.ids == clean.special.mask_id)).any()


@pytest.mark.parametrize("name", NAMES)
def test_levels_may_differ_by_block(name):
    clean = make_batch([0] * 32, [128] * 32)
    first = converse(NOISE.get(name)(level=(0.0, 1.0), per="block"), clean)[0]
    assert (first.ids == clean.special.mask_id).view(32, -1, 8).float().mean(-1).std(1).mean() > 0.2


@pytest.mark.parametrize("name", NAMES)
def test_the_fill_is_corrupted_and_predicted_like_the_response(name):
    strategy = NOISE.get(name)(level=0.6)
    filled = make_batch([3, 10], [6, 3], fill=True)
    whole = replace(filled, roles=filled.roles.masked_fill(filled.roles == Role.FILL, Role.RESPONSE))
    assert not torch.equal(filled.roles, whole.roles)
    for one, other in zip(converse(strategy, filled), converse(strategy, whole), strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.supervised, other.supervised)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_that_are_not_numbers_give_tokens(name, clean):
    # The loss then says what is wrong; an index out of range would not.
    broken = torch.full((*clean.ids.shape, clean.special.vocab_size), torch.nan)
    for view in converse(NOISE.get(name)(level=0.6), clean, logits=broken):
        assert ((view.ids >= 0) & (view.ids < clean.special.vocab_size)).all()
