import math

import pytest
import torch

from dmaxlit.backbone.soft_embedding import hybrid_embedding
from dmaxlit.decoding.base import BlockState
from dmaxlit.engine.inputs import input_embeddings
from dmaxlit.tokens import SoftTokens


def rows_of(table):
    return lambda ids: table[ids]


TABLE = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


def make_soft(rows=2, length=3, entries=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 7, (rows, length, entries), generator=generator)
    weights = torch.rand(rows, length, entries, generator=generator)
    where = torch.rand(rows, length, generator=generator) < 0.5
    return SoftTokens(ids, weights / weights.sum(-1, keepdim=True), where)


def test_blend_is_the_paper_s_formula():
    soft = make_soft()
    got = hybrid_embedding(rows_of(TABLE), soft)
    for r in range(2):
        for t in range(3):
            parts = [(float(w), TABLE[int(i)]) for i, w in zip(soft.ids[r, t], soft.weights[r, t], strict=True)]
            vector = sum(w * e for w, e in parts)
            norm = sum(w * math.sqrt(sum(float(x) ** 2 for x in e)) for w, e in parts)
            expected = vector / math.sqrt(sum(float(x) ** 2 for x in vector)) * norm
            torch.testing.assert_close(got[r, t], expected)


def test_a_mixture_of_one_token_is_its_embedding():
    soft = SoftTokens(torch.tensor([[[4, 6]]]), torch.tensor([[[1.0, 0.0]]]), torch.tensor([[True]]))
    torch.testing.assert_close(hybrid_embedding(rows_of(TABLE), soft)[0, 0], TABLE[4])


def test_opposite_embeddings_blend_to_zero_and_not_to_nan():
    table = torch.stack([TABLE[0], -TABLE[0]])
    soft = SoftTokens(torch.tensor([[[0, 1]]]), torch.tensor([[[0.5, 0.5]]]), torch.tensor([[True]]))
    assert hybrid_embedding(rows_of(table), soft).tolist() == [[[0.0] * 5]]


def test_half_precision_tables_are_blended_in_float32_and_rounded_once():
    soft = make_soft()
    table = TABLE.bfloat16()
    assert torch.equal(
        hybrid_embedding(rows_of(table), soft), hybrid_embedding(rows_of(table.float()), soft).bfloat16()
    )


def arc(*entries, weights):
    """Mix rows of the table along the sphere, the last one with the others."""
    return SoftTokens(torch.tensor([[entries]]), torch.tensor([[weights]]), torch.tensor([[True]]), slerp=True)


def test_on_the_arc_the_angle_is_divided_and_not_the_line():
    table = torch.tensor([[3.0, 0.0], [0.0, 1.0]])  # at a right angle
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        angle, norm = share * math.pi / 2, share * 1 + (1 - share) * 3
        expected = torch.tensor([norm * math.cos(angle), norm * math.sin(angle)])
        got = hybrid_embedding(rows_of(table), arc(1, 0, weights=(share, 1 - share)))
        torch.testing.assert_close(got[0, 0], expected, atol=1e-6, rtol=1e-6)


def test_the_arc_is_in_the_plane_of_the_last_token_and_the_others_average():
    got = hybrid_embedding(rows_of(TABLE), arc(1, 2, 6, weights=(0.5, 0.2, 0.3)))[0, 0]
    mean, mask = 0.5 * TABLE[1] + 0.2 * TABLE[2], TABLE[6]
    whole, part = (torch.acos(torch.cosine_similarity(mask, x, dim=0)) for x in (mean, got))
    torch.testing.assert_close(part, 0.7 * whole)
    assert torch.linalg.matrix_rank(torch.stack([mean, mask, got]), rtol=1e-5) == 2
    norm = 0.5 * TABLE[1].norm() + 0.2 * TABLE[2].norm() + 0.3 * mask.norm()
    torch.testing.assert_close(got.norm(), norm)


@pytest.mark.parametrize("scale", [1.0, 2.0, 1 + 1e-7, -1.0])
def test_an_arc_between_parallel_embeddings_has_no_nan_nor_its_gradient(scale):
    table = torch.stack([TABLE[0], scale * TABLE[0]]).requires_grad_()
    got = hybrid_embedding(rows_of(table), arc(0, 1, weights=(0.25, 0.75)))
    expected = (0.25 + 0.75 * scale) * TABLE[0] if scale > 0 else torch.zeros(5)
    if scale > 0:
        torch.testing.assert_close(got[0, 0].detach(), expected)
    got.sum().backward()
    assert got.isfinite().all()
    assert table.grad.isfinite().all()


def test_soft_tokens_stay_on_the_arc_where_rows_are_selected_and_padded():
    soft = arc(1, 0, weights=(0.2, 0.8))
    ids, flag = torch.tensor([[1]]), torch.tensor([[True]])
    state = BlockState(ids, flag, ~flag, ids[:, 0], flag[:, 0], soft)
    for other in (state.select(torch.tensor([0])), state.join(state), state.assign(torch.tensor([0]), state)):
        assert other.soft.slerp
    assert soft.after(3).slerp


def test_mixtures_are_fed_only_where_the_state_says_so():
    soft = make_soft()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    flags = torch.ones_like(ids, dtype=torch.bool)
    state = BlockState(ids, flags, ~flags, ids[:, 0], flags[:, 0], soft)
    got = input_embeddings(rows_of(TABLE), state)
    assert soft.where.any()
    assert not soft.where.all()
    assert torch.equal(got[soft.where], hybrid_embedding(rows_of(TABLE), soft)[soft.where])
    assert torch.equal(got[~soft.where], TABLE[ids][~soft.where])
    hard = BlockState(ids, flags, ~flags, ids[:, 0], flags[:, 0])
    assert torch.equal(input_embeddings(rows_of(TABLE), hard), TABLE[ids])
