"""Packing blocks into few rows loses nothing that is needed and changes no result."""

from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone import TrainingForward
from dmaxlit.backbone.attention import sparse_mask, to_model_mask
from dmaxlit.backbone.packing import Layout, _first_fit
from dmaxlit.noise import NOISE
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role
from tests.conftest import make_batch, make_denoiser

# Blocks of 8: 2, 2, 6, 1, 4 and 1; with response tokens 2, 1, 1, 1, 2 and 1.
PROMPTS, RESPONSES = (3, 10, 41, 0, 17, 5), (13, 6, 7, 8, 14, 2)


def ragged(fill=False):
    return make_batch(PROMPTS, RESPONSES, fill=fill)


def test_short_sequences_share_the_rows_of_long_ones():
    layout = Layout.of(ragged())
    assert layout.clean.index.shape == (3, 48)
    assert layout.noisy.index.shape[1] == 8 * 4
    rows = [sorted(set(row) - {-1}) for row in layout.clean.sequence.tolist()]
    assert sorted(chain(*rows)) == list(range(6))
    assert [sorted(set(row) - {-1}) for row in layout.noisy.sequence.tolist()] == rows


# With a short grid, as at the beginning of BlockWarmup, there are blocks of nothing but fill.
@pytest.mark.parametrize("clean", [ragged(), ragged(fill=True), replace(ragged(fill=True), block_length=2)])
def test_every_real_block_is_there_once_with_its_own_positions(clean):
    layout = Layout.of(clean)
    shape = clean.ids.shape
    count = torch.zeros(shape, dtype=torch.long)
    for copy, positions in ((layout.clean, clean.roles != Role.PAD), (layout.noisy, clean.response)):
        count.zero_()
        for row in range(len(copy.index)):
            for column in range(copy.index.shape[1]):
                sequence = int(copy.sequence[row, column])
                if sequence < 0:
                    assert not copy.is_token[row, column]
                    continue
                gather_index = int(copy.index[row, column]) - sequence * shape[1]
                assert gather_index == copy.position[row, column]
                assert gather_index // clean.block_length == copy.block[row, column]
                assert copy.is_token[row, column] == (clean.roles[sequence, gather_index] != Role.PAD)
                count[sequence, gather_index] += 1
        assert (count[positions] == 1).all()
        assert count.max() == 1


def test_values_find_their_way_back():
    clean = ragged()
    layout = Layout.of(clean)
    back = layout.noisy.take(clean.ids).flatten()[layout.gather_index]
    assert torch.equal(back[clean.response], clean.ids[clean.response])


def test_who_sees_whom_is_the_rule_within_each_sequence_and_nobody_else():
    clean = ragged()
    layout = Layout.of(clean)
    both = [layout.clean, layout.noisy]
    joined = {name: torch.cat([getattr(copy, name) for copy in both], 1) for name in ("sequence", "block", "is_token")}
    noisy = torch.cat([torch.full_like(copy.is_token, copy.noisy) for copy in both], 1)
    allowed = layout.doubled_mask.dense()
    width = allowed.shape[1]
    for row in range(len(allowed)):
        sequence, block, is_token = (joined[name][row].tolist() for name in ("sequence", "block", "is_token"))
        for q in range(width):
            for k in range(width):
                if noisy[row, q] and noisy[row, k]:
                    rule = block[q] == block[k]
                elif noisy[row, q]:
                    rule = block[k] < block[q]
                else:
                    rule = not noisy[row, k] and block[k] <= block[q]
                expected = (sequence[q] == sequence[k] and is_token[k] and rule) or q == k
                assert bool(allowed[row, q, k]) == expected


@pytest.mark.parametrize("which", ["clean_mask", "view_mask", "doubled_mask"])
def test_flex_attention_is_told_the_same(which):
    layout = Layout.of(ragged())
    attention = getattr(layout, which)
    dense, rule = attention.dense(), attention.sparse().mask_mod
    rows, queries, keys = (torch.arange(size) for size in dense.shape)
    elementwise = rule(rows[:, None, None], torch.tensor(0), queries[None, :, None], keys[None, None])
    assert torch.equal(elementwise, dense)
    assert attention.sparse() is attention.sparse()
    assert attention.dense() is attention.dense()


def alone(clean, row):
    used = -(-int((clean.roles[row] != Role.PAD).sum()) // clean.block_length) * clean.block_length
    part = slice(row, row + 1)
    return CleanBatch(clean.ids[part, :used], clean.roles[part, :used], clean.block_length, clean.special)


@pytest.mark.parametrize("clean_half", ["cached", "doubled"])
@pytest.mark.parametrize("name", sorted(NOISE))
def test_packed_is_unpacked_in_loss_and_gradients(name, clean_half):
    clean = ragged(fill=True)
    module = DMaxModule(make_denoiser(sharpen=3.0).double(), name, clean_half=clean_half)

    def step(batch, keys):
        losses = module.view_losses(batch, RowGenerator(0, keys, slots=keys, num_slots=6))
        total = torch.stack([loss.total for loss in losses]).sum()
        total.backward()
        return total.detach()

    packed = step(clean, list(range(6)))
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    apart = sum(step(alone(clean, row), [row]) for row in range(6))
    torch.testing.assert_close(packed, apart, rtol=1e-5, atol=1e-5)
    for got, parameter in zip(gradients, module.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-4, atol=1e-5)


def test_the_model_is_fed_fewer_tokens(monkeypatch):
    module = DMaxModule(make_denoiser(), "on_policy")
    fed = []
    inner = module.backbone.training_hidden
    monkeypatch.setattr(
        module.backbone,
        "training_hidden",
        lambda allowed, positions, *rest, **named: (
            fed.append(tuple(positions.shape)) or inner(allowed, positions, *rest, **named)
        ),
    )
    module.view_losses(ragged(), RowGenerator(0, list(range(6))))
    assert fed == [(3, 48), (3, 32), (3, 32)]


@pytest.mark.parametrize("seed", range(5))
def test_first_fit_hold_everything_once_and_overflow_never(seed):
    sizes = torch.randint(0, 9, (20,), generator=torch.Generator().manual_seed(seed)).tolist()
    bins = _first_fit(sizes)
    assert sorted(chain(*bins)) == list(range(20))
    assert max(sum(sizes[item] for item in items) for items in bins) == max(sizes)
    assert len(bins) <= 2 * -(-sum(sizes) // max(sizes))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("which", ["clean_mask", "view_mask", "doubled_mask"])
def test_flex_attention_sees_what_sdpa_sees(which):
    attention = getattr(Layout.of(ragged()), which)
    rows, queries, keys = attention.dense().shape
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, 2, size, 16, generator=generator) for size in (queries, keys, keys))
    expected = F.scaled_dot_product_attention(q, k, v, to_model_mask(attention, "sdpa", q.dtype))
    for mask in (to_model_mask(attention, "flex_attention", q.dtype), sparse_mask(attention.dense())):
        torch.testing.assert_close(flex_attention(q, k, v, block_mask=mask), expected, rtol=1e-5, atol=1e-6)


def test_flex_attention_on_a_cpu_is_refused():
    denoiser = make_denoiser(attn_implementation="flex_attention")
    with pytest.raises(UserError, match="attn_implementation: expected sdpa or eager on a CPU, got 'flex_attention'"):
        TrainingForward(denoiser, ragged())


@pytest.mark.parametrize("doubled", [False, True])
def test_blocks_of_a_group_see_each_other_noisy_and_earlier_groups_clean(doubled):
    # Block by block from the rule: noisy blocks of the same group up to itself, clean ones of earlier groups.
    denoiser = make_denoiser(sharpen=5.0)
    clean = make_batch([3, 8], [29, 20], special=denoiser.special)
    ids = torch.where(clean.response, (clean.ids + 3) % 35, clean.ids)
    groups = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    with torch.no_grad():
        found = TrainingForward(denoiser, clean, doubled)(ids, groups=groups)
        for row in range(2):
            for block in range(4):
                text = torch.cat(
                    [
                        (ids if groups[row, b] == groups[row, block] else clean.ids)[row, 8 * b : 8 * b + 8]
                        for b in range(block + 1)
                    ]
                )
                number = torch.arange(len(text)) // 8
                allowed = number[:, None] >= number[None, :]
                allowed = (allowed & (clean.roles[row, : len(text)] != Role.PAD)) | torch.eye(len(text)).bool()
                hidden = denoiser.hidden(allowed[None], torch.arange(len(text))[None], input_ids=text[None])
                where = clean.response[row, 8 * block : 8 * block + 8]
                torch.testing.assert_close(
                    found[row, 8 * block : 8 * block + 8][where], hidden[0, -8:][where], atol=1e-4, rtol=1e-4
                )


def test_groups_of_one_block_are_the_plain_mask():
    clean = make_batch([3, 8], [29, 20])
    layout = Layout.of(clean)
    grouped = layout.grouped(torch.arange(4).expand(2, -1), 8)
    for name in ("view_mask", "doubled_mask"):
        assert torch.equal(getattr(layout, name).dense(), getattr(grouped, name).dense())
