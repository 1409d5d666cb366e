"""Hidden states of requests that share a forward are those of each request's whole sequence alone."""

import pytest
import torch

from dmaxlit.backbone.cache import RowCache, _RowLayer
from dmaxlit.engine.block_forward import BlockForward
from dmaxlit.engine.request import Request
from tests.engine.models import lively_denoiser, make_prompts

# Pending blocks: 0, 3, 1, 4, 2, 5. The requests with 3 and 4 form one group, padded to 4, if they are neighbours.
LENGTHS = (3, 25, 8, 39, 17, 40)


@pytest.fixture(scope="module")
def denoiser():
    return lively_denoiser()


def make_requests(prompts, max_new_tokens):
    return [Request(0, prompt, max_new_tokens, 8) for prompt in prompts]


def alone(denoiser, request, block):
    """Last hidden states of the request's prefix and block, in one pass under a block-causal mask."""
    length = request.block_start + request.block_length
    blocks = torch.arange(length) // request.block_length
    prefix = denoiser.embedding[torch.tensor(request.tokens[: request.block_start], dtype=torch.long)]
    inputs = torch.cat([prefix, block])[None]
    hidden = denoiser.hidden((blocks[None] <= blocks[:, None])[None], torch.arange(length)[None], inputs_embeds=inputs)
    return hidden[0, request.block_start :]


def regroup(forward, requests, remaining=None):
    order = forward.group_order(requests, range(len(requests)) if remaining is None else remaining)
    kept = [requests[row] for row in order]
    forward.reorder(kept, order)
    return kept


def check(denoiser, forward, requests, generator):
    block = torch.randn(len(requests), 8, 32, generator=generator, dtype=torch.float64)
    got = forward(requests, block)
    for row, request in enumerate(requests):
        torch.testing.assert_close(got[row], alone(denoiser, request, block[row]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_rows_at_different_places_through_prefill_commit_refill_and_departure(use_cache, attention):
    denoiser = lively_denoiser(attn_implementation=attention)
    generator = torch.Generator().manual_seed(0)
    prompts = make_prompts(LENGTHS)
    requests = make_requests(prompts, 24)
    forward = BlockForward(denoiser, len(requests), max(request.length for request in requests), use_cache)
    check(denoiser, forward, requests, generator)
    check(denoiser, forward, requests, generator)

    for row in (0, 3):
        requests[row].close([row + 1] * 8, converged=True, eos_ids={36})
    check(denoiser, forward, requests, generator)

    # A shorter prompt takes the row of a longer one, whose keys are still in the buffer.
    requests[3] = Request(0, prompts[4][:12], 8, 8)
    check(denoiser, forward, requests, generator)

    requests[0].close([6] * 8, converged=True, eos_ids={36})
    requests[4].close([7] * 8, converged=True, eos_ids={36})
    requests = regroup(forward, requests)
    assert [request.num_pending for request in requests] == (
        [8, 0, 0, 0, 8, 0] if use_cache else [request.block_start for request in requests]
    )
    check(denoiser, forward, requests, generator)

    requests = regroup(forward, requests, [1, 3, 5])
    check(denoiser, forward, requests, generator)
    requests[0].close([5] * 8, converged=True, eos_ids={36})
    requests = regroup(forward, requests)
    check(denoiser, forward, requests, generator)


@pytest.mark.parametrize("pending", [(1,), (5,), (0, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5), ()])
@torch.no_grad()
def test_last_committed_blocks_are_processed_as_commit_rows(pending):
    denoiser = lively_denoiser()
    generator = torch.Generator().manual_seed(1)
    requests = make_requests(make_prompts(LENGTHS), 24)
    forward = BlockForward(denoiser, len(requests), max(request.length for request in requests))
    calls = []
    inner = denoiser.hidden
    denoiser.hidden = lambda *args, **named: calls.append(named["inputs_embeds"].shape[:2]) or inner(*args, **named)
    requests = regroup(forward, requests)
    check(denoiser, forward, requests, generator)
    for _ in range(2):
        for row in pending:
            requests[row].close([row + 1] * 8, converged=True, eos_ids={36})
        calls.clear()
        check(denoiser, forward, requests, generator)
        # The first call is the one that is looked at, the others compute what is expected of it.
        assert calls[0] == ((6 + len(pending), 8) if len(pending) <= 3 else (6, 16))


@torch.no_grad()
def test_a_row_that_moves_copies_what_the_requests_have_cached_and_no_more(denoiser, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    requests = make_requests(make_prompts((80, 17, 3)), 16)
    forward = BlockForward(denoiser, 3, 96)
    check(denoiser, forward, requests, generator)
    copied, copy_rows = [], _RowLayer.copy_rows
    monkeypatch.setattr(_RowLayer, "copy_rows", lambda *args: copied.append(args[-1]) or copy_rows(*args))
    requests = regroup(forward, requests, [1, 2])  # the long one has left
    check(denoiser, forward, requests, generator)
    assert set(copied) == {16}


@torch.no_grad()
def test_a_cache_in_use_grows_by_a_quarter_up_to_the_limit_and_by_what_there_is_memory_for(denoiser, monkeypatch):
    lengths, extend = [], RowCache.extend
    monkeypatch.setattr(RowCache, "extend", lambda cache, length: lengths.append(length) or extend(cache, length))
    forward = BlockForward(denoiser, 1, 8, limit=104)
    forward.reserve(64)
    assert lengths == [64 + 1]  # nothing is copied yet
    forward(make_requests(make_prompts((40,)), 8), torch.zeros(1, 8, 32, dtype=torch.float64))
    for length in (72, 80, 88, 96, 104):
        forward.reserve(length)
    assert lengths == [64 + 1, 80 + 1, 100 + 1, 104 + 1]

    def extend_a_little(cache, length):
        if length > 73:
            raise torch.OutOfMemoryError("full")
        extend(cache, length)

    monkeypatch.setattr(RowCache, "extend", extend_a_little)
    forward = BlockForward(denoiser, 1, 64)
    forward(make_requests(make_prompts((40,)), 8), torch.zeros(1, 8, 32, dtype=torch.float64))
    forward.reserve(72)
    with pytest.raises(MemoryError, match="no memory for the keys and values of 80 positions"):
        forward.reserve(80)


@torch.no_grad()
def test_only_decided_blocks_count_as_cached(denoiser):
    requests = make_requests(make_prompts((25, 3)), 16)
    assert [request.num_pending for request in requests] == [24, 0]
    BlockForward(denoiser, 2, 48)(requests, torch.zeros(2, 8, 32, dtype=torch.float64))
    assert [request.num_pending for request in requests] == [0, 0]
    assert requests[1].close([1] * 8, converged=True, eos_ids={36}) is None
    assert [request.num_pending for request in requests] == [0, 8]


@torch.no_grad()
def test_without_cache_everything_before_the_block_stays_pending(denoiser):
    requests = make_requests(make_prompts((25,)), 16)
    BlockForward(denoiser, 1, 48, use_cache=False)(requests, torch.zeros(1, 8, 32, dtype=torch.float64))
    assert requests[0].num_pending == 24
