import pickle
from collections import Counter
from dataclasses import replace

import pytest
import torch

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.errors import DMaxWarning
from dmaxlit.noise import NOISE, MaskedNoise, MultiBlockNoise
from dmaxlit.noise.block_groups import (
    chain_levels,
    choose_exactly,
    draw_groups,
    layouts,
    rank_in_group,
    split_at_prompts,
)
from dmaxlit.randomness import RowGenerator
from tests.conftest import make_batch, make_denoiser
from tests.noise.test_contract import converse


def rows(count=64, blocks=5):
    return make_batch([0] * count, [8 * blocks] * count), RowGenerator(0, list(range(count)))


@pytest.mark.parametrize(("size", "expected"), [(2, 2), (3, 5), (4, 9)])
def test_there_are_as_many_regular_layouts_as_published(size, expected):
    assert len(layouts(size)) == expected


def test_regular_layouts_of_pairs_begin_at_either_block():
    clean, generator = rows()
    groups = draw_groups(clean, 2, 0, generator).tolist()
    shapes = Counter(tuple(Counter(row).values()) for row in groups)
    assert set(shapes) == {(2, 2, 1), (1, 2, 2)}
    assert min(shapes.values()) > 16


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("blocks", [2, 3, 4, 7, 8, 13])
def test_random_layouts_have_groups_of_two_or_more_and_a_remainder_anywhere(size, blocks):
    clean, generator = rows(256, blocks)
    groups = draw_groups(clean, size, 10**6, generator).tolist()
    shapes = {tuple(Counter(row).values()) for row in groups}
    assert all(max(shape) <= size and sum(shape) == blocks and 1 not in shape for shape in shapes)
    if blocks > 4:
        assert set(range(2, size + 1)) == {part for shape in shapes for part in shape}
        assert len({shape.index(min(shape)) for shape in shapes}) > 1


def test_random_layouts_of_pairs_keep_a_single_block_and_so_does_a_text_of_one():
    clean, generator = rows(blocks=7)
    shapes = {tuple(Counter(row).values()) for row in draw_groups(clean, 2, 10**6, generator).tolist()}
    assert shapes == {(1, 2, 2, 2), (2, 1, 2, 2), (2, 2, 1, 2), (2, 2, 2, 1)}
    clean, generator = rows(blocks=1)
    assert draw_groups(clean, 3, 10**6, generator).tolist() == [[0]] * 64


def test_blocks_of_prompts_are_groups_by_themselves_and_keep_the_rank_of_others():
    clean = make_batch([16], [24])  # blocks P P R R R
    groups = torch.tensor([[0, 1, 1, 2, 2]])
    assert split_at_prompts(groups, clean).tolist() == [[0, 1, 2, 3, 3]]
    assert rank_in_group(groups).tolist() == [[0, 0, 1, 0, 1]]


def test_levels_rise_within_a_group_as_a_chain_of_uniform_draws():
    _, generator = rows(4000, 4)
    rank = torch.tensor([0, 1, 2, 0]).expand(4000, -1)
    level = chain_levels(rank, generator)
    assert (level[:, :2] <= level[:, 1:3]).all()
    assert level.min() >= 0.001
    assert level.max() <= 0.99001
    # Means of L + (h - L) / 2 and so on, with L uniform: h - 0.989 / 2^(j + 1) from h = 0.99.
    expected = [0.99001 - 0.98901 / 2 ** (j + 2) for j in (0, 1, 2, 0)]
    torch.testing.assert_close(level.mean(0), torch.tensor(expected), atol=0.015, rtol=0)


def test_exactly_the_floor_of_the_level_is_corrupted_in_each_block():
    clean = make_batch([3, 10], [37, 20])
    level = torch.tensor([[0.5, 0.99, 0.1, 1.0, 0.3]]).expand(2, -1)
    chosen = choose_exactly(clean, level, RowGenerator(0, [0, 1]))
    count = clean.response.view(2, 5, 8).sum(-1)
    assert torch.equal(chosen.view(2, 5, 8).sum(-1), (count * level).floor().long())
    assert not (chosen & ~clean.response).any()


def test_ranges_are_those_of_the_place_in_the_group():
    clean, _ = rows()
    (view,) = converse(MultiBlockNoise(2, ranges=[(0.001, 0.2), (0.8, 1.0)]), clean)
    first = view.groups.diff(dim=1, prepend=torch.full((64, 1), -1)) > 0
    level = view.level[:, ::8]
    assert (level[first] <= 0.2).all()
    assert (level[~first] >= 0.8).all()


@pytest.mark.parametrize(
    ("length", "ranges"), [(1, None), (1, [(0.001, 0.2), (0.8, 1.0)]), (8, [(0.0, 0.125), (0.1, 0.1), (0.8, 1.0)])]
)
def test_blocks_of_which_nothing_would_be_corrupted_are_refused(length, ranges):
    clean = make_batch([0], [32], block_length=length)
    with pytest.raises(UserError, match=f"noise: expected blocks long enough for multi_block .*, got {length} "):
        converse(MultiBlockNoise(ranges=ranges), clean)


def test_the_shortest_blocks_that_are_not_refused_have_a_mask_in_some_rows():
    clean = make_batch([0] * 64, [32] * 64, block_length=2)
    for ranges in (None, [(0.5, 0.5)]):
        (view,) = converse(MultiBlockNoise(ranges=ranges), clean)
        assert view.supervised.any()


def test_a_place_in_which_nothing_would_be_corrupted_is_warned_of():
    clean = make_batch([0] * 64, [32] * 64, block_length=4)
    strategy = MultiBlockNoise(ranges=[(0.001, 0.2), (0.8, 1.0)])
    with pytest.warns(DMaxWarning, match="ranges: .* no token of the blocks in place 1 of a group .* have 4 tokens"):
        (view,) = converse(strategy, clean)
    assert not view.supervised[:, ::4].all()
    first = rank_in_group(view.groups).repeat_interleave(4, 1) == 0
    assert not (view.supervised & first).any()
    assert view.supervised.any()


def test_on_policy_views_share_groups_and_corruption():
    clean, _ = rows(4)
    masked, predicted = converse(MultiBlockNoise(3, base="on_policy"), clean)
    assert masked.groups is predicted.groups
    assert torch.equal(masked.is_masked, predicted.model_filled)
    assert torch.equal(masked.supervised, clean.response)


def test_a_trajectory_begins_at_the_corruption_of_the_groups():
    clean, _ = rows(4)
    first, *_, last = converse(MultiBlockNoise(3, base="tsd"), clean)
    (masked,) = converse(MultiBlockNoise(3), clean)
    assert first.groups is last.groups
    assert torch.equal(first.is_masked, masked.is_masked)
    assert not (last.is_masked & ~first.is_masked).any()


def test_the_clean_copy_is_computed_once_and_the_doubled_form_has_the_same_gradient():
    gradients = []
    for form in ("cached", "doubled"):
        module = DMaxModule(make_denoiser(sharpen=5.0), MultiBlockNoise(3, base="on_policy"), clean_half=form)
        clean = make_batch([3, 10, 0], [37, 14, 24], special=module.special)
        calls = []
        handle = module.backbone.model.base_model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        losses = module.view_losses(clean, RowGenerator(0, [0, 1, 2]))
        handle.remove()
        assert len(calls) == (3 if form == "cached" else 2)
        torch.stack([loss.total for loss in losses]).sum().backward()
        gradients.append(module.backbone.embedding.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_adapters_alone_are_trained(clean):
    module = DMaxModule(make_denoiser(sharpen=5.0), MultiBlockNoise(base="on_policy"), lora=LoraSettings(r=2))
    before = module.backbone.embedding.clone()
    losses = module.view_losses(clean, RowGenerator(0, [0, 1, 2]))
    torch.stack([loss.total for loss in losses]).sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert all("lora_" in name or "mask_delta" in name for name in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    assert torch.equal(module.backbone.embedding, before)


def test_a_copy_in_another_process_is_the_same_strategy():
    strategy = pickle.loads(pickle.dumps(MultiBlockNoise(3, base="on_policy")))
    clean, _ = rows(3)
    one, other = converse(strategy, clean), converse(MultiBlockNoise(3, base="on_policy"), clean)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"group_size": 1}, "group_size: expected"),
        ({"random_layouts": -1}, "random_layouts: expected"),
        ({"ranges": []}, "ranges: expected pairs"),
        ({"ranges": [(0.5, 0.2)]}, "ranges: expected pairs"),
        ({"base": "multi_block"}, "base: expected another strategy"),
        ({"base_options": {"level": 0.5}}, "base_options: expected no level"),
        ({"base_options": {"span_length": 4}}, "base_options: expected no span_length"),
        ({"base": "on_policy", "base_options": {"alternate": "no"}}, "alternate: expected bool, got 'no'"),
        ({"base_options": {"weighting": "realized"}}, "base_options: expected weighting none or elbo"),
        ({"base": "soft_on_policy", "base_options": {"tau_dec": [0.1]}}, "tau_dec: expected a number in"),
        ({"base_options": {"depth": 3}}, "base 'masked': unknown option depth; known: .*weighting"),
        ({"base": "nothing"}, "noise strategy"),
    ],
)
def test_bad_options_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        MultiBlockNoise(**options)


def test_the_views_of_a_base_of_one_s_own_are_checked():
    class Careless(MaskedNoise):
        def views(self, clean, generator):
            (view,) = super().views(clean, generator)
            yield replace(view, ids=torch.full_like(view.ids, clean.special.mask_id))

    NOISE.register("careless")(Careless)
    try:
        module = DMaxModule(make_denoiser(), MultiBlockNoise(base="careless"))
    finally:
        del NOISE._classes["careless"]
    with pytest.raises(UserError, match="noise Careless: expected view 'masked' to leave prompts and pads as they are"):
        module.view_losses(make_batch(special=module.special), RowGenerator(0, [0, 1, 2]))
