"""Requests that share a forward are neighbours, and as few as possible change their row."""

from types import SimpleNamespace

import pytest
import torch

from dmaxlit.engine.batching import group_order, groups

BLOCK = 4


def requests_with(pending_blocks):
    return [SimpleNamespace(num_pending=BLOCK * blocks, block_length=BLOCK) for blocks in pending_blocks]


def runs(pending_blocks, num_committed=0):
    return list(groups(requests_with(pending_blocks), num_committed))


def test_groups_are_runs_of_rows_with_alike_numbers_of_pending_blocks():
    assert runs([0, 0, 1, 1, 2, 3, 4, 5, 8, 9]) == [(0, 2), (2, 4), (4, 5), (5, 7), (7, 9), (9, 10)]
    assert runs([1, 0, 1]) == [(0, 1), (1, 2), (2, 3)]
    assert runs([]) == []


def test_with_commit_rows_none_and_one_are_alike():
    assert runs([0, 1, 0, 1, 2, 3, 4], num_committed=1) == [(0, 4), (4, 5), (5, 7)]
    assert group_order(requests_with([1, 0, 1, 0]), [0, 1, 2, 3], num_committed=1) == [0, 1, 2, 3]
    assert group_order(requests_with([1, 3, 1, 0]), [0, 1, 2, 3], num_committed=1) == [0, 3, 2, 1]


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_brought_together_and_none_is_lost(seed):
    generator = torch.Generator().manual_seed(seed)
    pending = torch.randint(0, 4, (9,), generator=generator).tolist()
    remaining = torch.randperm(9, generator=generator)[: 1 + seed % 9].sort().values.tolist()
    requests = requests_with(pending)
    order = group_order(requests, remaining, num_committed=0)
    assert sorted(order) == remaining
    after = [pending[row] for row in order]
    kinds = [{0: 0, 1: 1, 2: 2, 3: 3}[blocks] for blocks in after]
    assert kinds == sorted(kinds)
    # No other order that is sorted leaves more requests in their rows.
    unmoved = sum(row == index for index, row in enumerate(order))
    assert unmoved == sum(row in remaining and pending[row] == kind for row, kind in enumerate(sorted(kinds)))


def test_an_order_that_is_right_stays():
    assert group_order(requests_with([0, 0, 1, 3]), [0, 1, 2, 3], num_committed=0) == [0, 1, 2, 3]
    assert group_order(requests_with([0, 1, 0, 0]), [0, 1, 2, 3], num_committed=0) == [0, 3, 2, 1]
    assert group_order(requests_with([0, 0, 0, 0]), [1, 2, 3], num_committed=0) == [3, 1, 2]
