"""What every registered noise strategy must hold; a new one is tested by being registered."""

from dataclasses import replace

import pytest
import torch

from dmaxlit.noise import NOISE, LogitsPrediction, dialogue
from dmaxlit.noise.schedules import LevelCurriculum
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import Role
from tests.conftest import make_batch

NAMES = list(NOISE)


def converse(strategy, clean, generator=None, logits=None):
    """Return all views; their predictions are random logits, or ``logits`` (``[batch, length, vocab]``)."""
    generator = generator or RowGenerator(0, list(range(clean.ids.shape[0])))
    if logits is None:
        logits = torch.randn(*clean.ids.shape, clean.special.vocab_size, generator=torch.Generator().manual_seed(1))
        logits[..., clean.special.mask_id] = -torch.inf
    answered = dialogue(
        strategy.views(clean, generator), lambda view: LogitsPrediction(logits[view.supervised], view.supervised)
    )
    return [view for view, _ in answered]


@pytest.mark.parametrize("name", NAMES)
def test_prompt_and_pads_stay_and_are_not_supervised(name, clean):
    for view in converse(NOISE.get(name)(level=1.0), clean):
        assert torch.equal(view.ids[~clean.response], clean.ids[~clean.response])
        assert not (view.supervised & ~clean.response).any()
        assert view.soft is None or not (view.soft.where & ~clean.response).any()


@pytest.mark.parametrize("name", NAMES)
def test_level_zero_is_the_identity(name, clean):
    strategy = NOISE.get(name)
    first, *others = converse(strategy(level=0.0, **strategy.level_only), clean)
    for view in [first, *others] if strategy.exact_level else [first]:
        assert torch.equal(view.ids, clean.ids)
        assert view.soft is None or not view.soft.where.any()


@pytest.mark.parametrize("name", NAMES)
def test_level_one_masks_every_response_token_in_the_first_view(name, clean):
    first = converse(NOISE.get(name)(level=1.0), clean)[0]
    assert (first.ids[clean.response] == clean.special.mask_id).all()
    assert torch.equal(first.is_masked, clean.response)


@pytest.mark.parametrize("name", NAMES)
def test_the_empirical_rate_is_the_level(name):
    clean = make_batch([4] * 64, [252] * 64)
    first = converse(NOISE.get(name)(level=0.3), clean)[0]
    rate = (first.ids == clean.special.mask_id)[clean.response].float().mean()
    assert abs(rate - 0.3) < 0.02  # 16,128 draws: standard deviation 0.0036


@pytest.mark.parametrize("name", NAMES)
def test_a_view_says_where_it_holds_masks_and_at_what_level(name, clean):
    for view in converse(NOISE.get(name)(level=0.6), clean):
        masked = torch.zeros_like(clean.response) if view.is_masked is None else view.is_masked
        assert torch.equal(view.ids == clean.special.mask_id, masked)
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
def test_levels_may_differ_by_block_and_change_with_the_step(name):
    clean = make_batch([0] * 32, [128] * 32)
    curriculum = LevelCurriculum({0: (0.0, 1.0), 5: 1.0})
    strategy = NOISE.get(name)(level=curriculum, per="block")
    first = converse(strategy, clean)[0]
    assert (first.ids == clean.special.mask_id).view(32, -1, 8).float().mean(-1).std(1).mean() > 0.2
    late = converse(strategy, replace(clean, step=5))[0]
    assert (late.ids == clean.special.mask_id).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_views_and_another_does_not(name, clean):
    strategy = NOISE.get(name)(level=0.5)
    rows = list(range(3))
    one, same, other = (converse(strategy, clean, RowGenerator(seed, rows)) for seed in (0, 0, 1))
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(one, same, strict=True))
    assert any(not torch.equal(a.ids, b.ids) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per", ["sequence", "block"])
def test_a_row_does_not_depend_on_its_batch(name, per):
    clean = make_batch()
    alone = make_batch([3], [13])
    torch.manual_seed(0)
    logits = torch.randn(3, clean.ids.shape[1], 38)
    logits[..., clean.special.mask_id] = -torch.inf
    strategy = NOISE.get(name)(level=(0.2, 0.9), per=per)
    together = converse(strategy, clean, RowGenerator(0, ["a", "b", "c"]), logits)
    width = alone.ids.shape[1]
    alone_ids = clean.ids[:1, :width]
    single = type(alone)(alone_ids, clean.roles[:1, :width], 8, clean.special)
    for many, one in zip(together, converse(strategy, single, RowGenerator(0, ["a"]), logits[:1, :width]), strict=True):
        assert torch.equal(many.ids[:1, :width], one.ids)
        if one.soft is not None:
            where = one.soft.where
            assert torch.equal(many.soft.where[:1, :width], where)
            torch.testing.assert_close(many.soft.weights[:1, :width][where], one.soft.weights[where])


@pytest.mark.parametrize("name", NAMES)
def test_the_fill_is_corrupted_and_predicted_like_the_response(name):
    strategy = NOISE.get(name)(level=0.6)
    filled = make_batch([3, 10], [6, 3], fill=True)
    whole = replace(filled, roles=filled.roles.masked_fill(filled.roles == Role.FILL, Role.RESPONSE))
    assert not torch.equal(filled.roles, whole.roles)
    for one, other in zip(converse(strategy, filled), converse(strategy, whole), strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.supervised, other.supervised)
