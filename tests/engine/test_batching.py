"""Rows that share a forward are neighbours, and as few as possible change their place."""

from types import SimpleNamespace

import pytest
import torch

from dmaxlit.engine.batching import arrange, groups

BLOCK = 4


def rows_with(pending_blocks):
    return [SimpleNamespace(pending=BLOCK * blocks, block_length=BLOCK) for blocks in pending_blocks]


def runs(pending_blocks, twins=False):
    return list(groups(rows_with(pending_blocks), twins))


def test_groups_are_runs_of_rows_with_alike_numbers_of_pending_blocks():
    assert runs([0, 0, 1, 1, 2, 3, 4, 5, 8, 9]) == [(0, 2), (2, 4), (4, 5), (5, 7), (7, 9), (9, 10)]
    assert runs([1, 0, 1]) == [(0, 1), (1, 2), (2, 3)]
    assert runs([]) == []


def test_with_twins_none_and_one_are_alike():
    assert runs([0, 1, 0, 1, 2, 3, 4], twins=True) == [(0, 4), (4, 5), (5, 7)]
    assert arrange(rows_with([1, 0, 1, 0]), [0, 1, 2, 3], twins=True) == [0, 1, 2, 3]
    assert arrange(rows_with([1, 3, 1, 0]), [0, 1, 2, 3], twins=True) == [0, 3, 2, 1]


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_brought_together_and_none_is_lost(seed):
    generator = torch.Generator().manual_seed(seed)
    pending = torch.randint(0, 4, (9,), generator=generator).tolist()
    left = torch.randperm(9, generator=generator)[: 1 + seed % 9].sort().values.tolist()
    rows = rows_with(pending)
    order = arrange(rows, left, twins=False)
    assert sorted(order) == left
    after = [pending[place] for place in order]
    kinds = [{0: 0, 1: 1, 2: 2, 3: 3}[blocks] for blocks in after]
    assert kinds == sorted(kinds)
    # No other order that is sorted leaves more rows in their places.
    stay = sum(place == number for number, place in enumerate(order))
    assert stay == sum(place in left and pending[place] == kind for place, kind in enumerate(sorted(kinds)))


def test_an_order_that_is_right_stays():
    assert arrange(rows_with([0, 0, 1, 3]), [0, 1, 2, 3], twins=False) == [0, 1, 2, 3]
    assert arrange(rows_with([0, 1, 0, 0]), [0, 1, 2, 3], twins=False) == [0, 3, 2, 1]
    assert arrange(rows_with([0, 0, 0, 0]), [1, 2, 3], twins=False) == [3, 1, 2]
