"""Hidden states of rows that share a forward are those of each row's whole sequence alone."""

import pytest
import torch

from dmaxlit.engine.block_forward import BlockForward
from dmaxlit.engine.request import make_requests
from tests.engine.models import lively_denoiser, make_prompts

# Pending blocks: 0, 3, 1, 4, 2, 5. The rows with 3 and 4 form one group, padded to 4, if they are neighbours.
LENGTHS = (3, 25, 8, 39, 17, 40)


@pytest.fixture(scope="module")
def denoiser():
    return lively_denoiser()


def alone(denoiser, row, block):
    """Last hidden states of the row's prefix and block, in one pass under a block-causal mask."""
    length = row.block_start + row.block_length
    blocks = torch.arange(length) // row.block_length
    prefix = denoiser.embedding[torch.tensor(row.tokens[: row.block_start], dtype=torch.long)]
    inputs = torch.cat([prefix, block])[None]
    hidden = denoiser.hidden((blocks[None] <= blocks[:, None])[None], torch.arange(length)[None], inputs_embeds=inputs)
    return hidden[0, row.block_start :]


def regroup(forward, rows, left=None):
    order = forward.group_order(rows, range(len(rows)) if left is None else left)
    forward.reorder(order)
    return [rows[place] for place in order]


def check(denoiser, forward, rows, generator):
    block = torch.randn(len(rows), 8, 32, generator=generator, dtype=torch.float64)
    got = forward(rows, block)
    for place, row in enumerate(rows):
        torch.testing.assert_close(got[place], alone(denoiser, row, block[place]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_rows_at_different_places_through_prefill_commit_refill_and_departure(use_cache, attention):
    denoiser = lively_denoiser(attn_implementation=attention)
    generator = torch.Generator().manual_seed(0)
    prompts = make_prompts(LENGTHS)
    rows = make_requests(prompts, 24, 8, denoiser.max_length, 38)
    forward = BlockForward(denoiser, len(rows), max(row.length for row in rows), use_cache)
    check(denoiser, forward, rows, generator)
    check(denoiser, forward, rows, generator)

    for place in (0, 3):
        rows[place].close([place + 1] * 8, converged=True, eos_id=36)
    check(denoiser, forward, rows, generator)

    # A shorter prompt takes the place of a longer one, whose keys are still in the buffer.
    rows[3] = make_requests([prompts[4][:12]], 8, 8, denoiser.max_length, 38)[0]
    check(denoiser, forward, rows, generator)

    rows[0].close([6] * 8, converged=True, eos_id=36)
    rows[4].close([7] * 8, converged=True, eos_id=36)
    rows = regroup(forward, rows)
    assert [row.num_pending for row in rows] == ([8, 0, 0, 0, 8, 0] if use_cache else [row.block_start for row in rows])
    check(denoiser, forward, rows, generator)

    rows = regroup(forward, rows, [1, 3, 5])
    check(denoiser, forward, rows, generator)
    rows[0].close([5] * 8, converged=True, eos_id=36)
    rows = regroup(forward, rows)
    check(denoiser, forward, rows, generator)


@pytest.mark.parametrize("pending", [(1,), (5,), (0, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5), ()])
@torch.no_grad()
def test_blocks_committed_last_ride_beside_their_rows(pending):
    denoiser = lively_denoiser()
    generator = torch.Generator().manual_seed(1)
    rows = make_requests(make_prompts(LENGTHS), 24, 8, denoiser.max_length, 38)
    forward = BlockForward(denoiser, len(rows), max(row.length for row in rows))
    calls = []
    inner = denoiser.hidden
    denoiser.hidden = lambda *args, **named: calls.append(named["inputs_embeds"].shape[:2]) or inner(*args, **named)
    rows = regroup(forward, rows)
    check(denoiser, forward, rows, generator)
    for _ in range(2):
        for place in pending:
            rows[place].close([place + 1] * 8, converged=True, eos_id=36)
        calls.clear()
        check(denoiser, forward, rows, generator)
        # The first call is the one that is looked at, the others compute what is expected of it.
        assert calls[0] == ((6 + len(pending), 8) if len(pending) <= 3 else (6, 16))


@torch.no_grad()
def test_only_decided_blocks_count_as_cached(denoiser):
    rows = make_requests(make_prompts((25, 3)), 16, 8, denoiser.max_length, 38)
    assert [row.num_pending for row in rows] == [24, 0]
    BlockForward(denoiser, 2, 48)(rows, torch.zeros(2, 8, 32, dtype=torch.float64))
    assert [row.num_pending for row in rows] == [0, 0]
    assert rows[1].close([1] * 8, converged=True, eos_id=36) is None
    assert [row.num_pending for row in rows] == [0, 8]


@torch.no_grad()
def test_without_cache_everything_before_the_block_stays_pending(denoiser):
    rows = make_requests(make_prompts((25,)), 16, 8, denoiser.max_length, 38)
    BlockForward(denoiser, 1, 48, use_cache=False)(rows, torch.zeros(1, 8, 32, dtype=torch.float64))
    assert rows[0].num_pending == 24
