"""A request keeps the books of its prompt: blocks, cached positions, counts and the end of the response."""

import numpy as np
import pytest
import torch

from dmaxlit import UserError
from dmaxlit.engine.request import Request, check_prompt

EOS, OTHER_EOS = 9, 19


def close(request, block, converged=True):
    return request.close(block, converged, {EOS, OTHER_EOS})


def test_the_first_block_begins_with_the_end_of_the_prompt():
    request = Request(0, [1, 2, 3, 4, 5, 6], max_new_tokens=5, block_length=4)
    assert (request.block_start, request.tokens, request.prompt_tail) == (4, [1, 2, 3, 4], [5, 6])
    assert request.length == 12
    assert (request.num_pending, request.pending_tokens) == (4, [1, 2, 3, 4])


def test_what_is_pending_is_cached_with_the_next_forward():
    request = Request(0, [1, 2, 3, 4, 5], max_new_tokens=8, block_length=4)
    request.mark_cached()
    assert (request.num_pending, request.pending_tokens) == (0, [])
    assert close(request, [5, 6, 7, 8]) is None
    assert (request.num_pending, request.pending_tokens) == (4, [5, 6, 7, 8])
    assert (request.block_start, request.prompt_tail) == (8, [])


def test_forwards_are_counted_for_the_block_and_for_the_response():
    request = Request(0, [], max_new_tokens=8, block_length=4)
    for _ in range(3):
        request.count_forward(extra_blocks=2)
    assert close(request, [1, 2, 3, 4], converged=False) is None
    assert (request.num_steps, request.num_forwards) == (0, 3)
    request.count_forward(extra_blocks=2)
    assert (request.num_steps, request.num_forwards) == (1, 4)
    sequence = close(request, [5, 6, 7, 8])
    assert sequence.token_ids == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (sequence.num_forwards, sequence.num_extra_blocks, sequence.hit_step_limit) == (4, 8, 1)
    assert not sequence.finished


@pytest.mark.parametrize(
    ("block", "options", "token_ids", "finished"),
    [
        ([1, EOS, 3, EOS], {}, [EOS], True),
        ([1, 2, OTHER_EOS, EOS], {}, [2, OTHER_EOS], True),
        ([1, 2, 3, 4], {"max_forwards": 0}, [2, 3, 4], False),
        ([1, 2, 3, 4], {"stop": lambda ids: ids.index(3) + 1}, [2, 3], True),
        ([1, 2, EOS, 4], {"stop": lambda ids: 1}, [2], True),
    ],
)
def test_a_response_ends_with_eos_a_stop_text_or_the_last_block(block, options, token_ids, finished):
    sequence = close(Request(0, [1], max_new_tokens=12, block_length=4, **options), block)
    assert (sequence.token_ids, sequence.finished) == (token_ids, finished)


def test_a_response_ends_at_its_budget():
    sequence = close(Request(0, [EOS, 1], max_new_tokens=1, block_length=4), [EOS, 1, 2, EOS])
    assert (sequence.token_ids, sequence.finished) == ([2], False)


def test_requests_of_one_prompt_leave_it_as_it_is():
    prompt = [1, 2, 3, 4, 5]
    requests = [Request(index, prompt, max_new_tokens=8, block_length=4) for index in range(2)]
    close(requests[0], [5, 6, 7, 8])
    assert prompt == [1, 2, 3, 4, 5]
    assert (requests[1].tokens, requests[1].prompt_tail) == ([1, 2, 3, 4], [5])


def checked(prompt):
    return check_prompt(3, prompt, max_length=8, vocab_size=20)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1] * 8, r"expected at most 7 tokens \(the context holds 8\), got 8"),
        ([1, 20], "expected token ids from 0 to 19, got 1 to 20"),
        ([-1, 1], "expected token ids from 0 to 19, got -1 to 1"),
    ],
)
def test_prompts_fit_the_context_and_the_vocabulary(prompt, message):
    assert checked([0, 19, 1, 1, 1, 1, 1]) == [0, 19, 1, 1, 1, 1, 1]
    with pytest.raises(UserError, match=rf"^prompts\[3\]: {message}$"):
        checked(prompt)


@pytest.mark.parametrize(
    "prompt", [(1, 2), torch.tensor([1, 2]), np.array([1, 2]), [np.int64(1), np.int32(2)], range(1, 3)]
)
def test_a_prompt_is_any_sequence_of_integers(prompt):
    ids = checked(prompt)
    assert ids == [1, 2]
    assert {type(token) for token in ids} == {int}


@pytest.mark.parametrize(
    ("prompt", "got"),
    [
        ("12", "a value of type str"),
        (b"12", "a value of type bytes"),
        (None, "None"),
        (5, "a value of type int"),
        ({1, 2}, "a value of type set"),
        ((token for token in (1, 2)), "a value of type generator"),
        ([1, 2.0], "one that holds a value of type float"),
        ([1, True], "one that holds a value of type bool"),
        ([1, None], "one that holds None"),
        (["1"], "one that holds a value of type str"),
        (torch.tensor([1.0]), "one that holds a value of type float"),
        (torch.tensor([[1, 2]]), "one that holds a value of type list"),
        (torch.tensor(1), r"int64 of shape \[\]"),
    ],
)
def test_what_is_no_sequence_of_integers_is_refused(prompt, got):
    with pytest.raises(UserError, match=rf"^prompts\[3\]: expected a list of token ids, got {got}$"):
        checked(prompt)
