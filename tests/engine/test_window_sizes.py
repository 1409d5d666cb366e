"""How many blocks of a request are open after a forward, and where they begin: hand-made requests, no model."""

from collections.abc import Collection, Sequence

import pytest

from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.outcome import Outcome
from dmaxlit.engine.request import Request
from dmaxlit.engine.window import resize_windows

EOS = 9


def hand_made(num_open: int = 1, prompt: Sequence[int] = (), max_new_tokens: int = 12) -> Request:
    """A request with blocks of four tokens."""
    request = Request(0, list(prompt), max_new_tokens, block_length=4)
    for _ in range(num_open - 1):
        request.open_next()
    return request


def resize(request: Request, tokens: dict[int, list[int]], admits: Collection[int], window: int = 3) -> list[int]:
    """Resize the window of a request alone, whose blocks are as in the forward.

    Args:
        request: The request.
        tokens: Tokens of blocks, by their position; others have no EOS.
        admits: Positions of blocks behind which another one is admitted.
        window: Most open blocks.

    Returns:
        Where the open blocks begin.
    """
    blocks = BlockRows([request])
    starts = [block.start for block in blocks.rows]
    outcome = Outcome(
        tokens=[tokens.get(start, [1, 2, 3, 4]) for start in starts],
        converged=[False] * len(starts),
        admits=[start in admits for start in starts],
        restarts=[False] * len(starts),
        at_limit=set(),
    )
    resize_windows([request], blocks, outcome, window, frozenset({EOS}))
    return request.open_starts


def test_one_block_is_added_where_the_last_one_admits_it():
    assert resize(hand_made(), {}, admits=[0]) == [0, 4]
    assert resize(hand_made(), {}, admits=[]) == [0]
    assert resize(hand_made(2), {}, admits=[4]) == [0, 4, 8]
    assert resize(hand_made(2), {}, admits=[0]) == [0, 4]


def test_a_window_grows_neither_beyond_its_size_nor_the_budget():
    assert resize(hand_made(2), {}, admits=[4], window=2) == [0, 4]
    assert resize(hand_made(2, max_new_tokens=8), {}, admits=[4]) == [0, 4]
    assert resize(hand_made(2, max_new_tokens=9), {}, admits=[4]) == [0, 4, 8]


@pytest.mark.parametrize(("keeps_closed", "expected"), [(False, [4, 8, 12]), (True, [4, 8])])
def test_a_closed_block_may_hold_its_place_for_a_forward(keeps_closed, expected):
    request = hand_made(3, max_new_tokens=40)
    blocks = BlockRows([request])
    starts = [block.start for block in blocks.rows]
    request.close([1, 2, 3, 4], True, {EOS})
    outcome = Outcome(
        tokens=[[1, 2, 3, 4]] * 3,
        converged=[start == 0 for start in starts],
        admits=[start == 8 for start in starts],
        restarts=[False] * 3,
        at_limit=set(),
    )
    resize_windows([request], blocks, outcome, 3, frozenset({EOS}), keeps_closed)
    assert request.open_starts == expected


@pytest.mark.parametrize("position", [0, 4, 8])
def test_blocks_behind_an_eos_are_dropped(position):
    blocks = [0, 4, 8]
    assert resize(hand_made(3), {position: [1, EOS, 3, 4]}, admits=blocks, window=9) == blocks[: position // 4 + 1]


def restarted(num_open, tokens, restarts, closed=0):
    """The starts of the blocks that begin anew, some of the first of them closed in the forward."""
    request = hand_made(num_open, max_new_tokens=40)
    blocks = BlockRows([request])
    starts = [block.start for block in blocks.rows]
    for _ in range(closed):
        request.close([1, 2, 3, 4], True, {EOS})
    outcome = Outcome(
        tokens=[tokens.get(start, [1, 2, 3, 4]) for start in starts],
        converged=[False] * len(starts),
        admits=[True] * len(starts),
        restarts=[start in restarts for start in starts],
        at_limit=set(),
    )
    rows = resize_windows([request], blocks, outcome, 9, frozenset({EOS}))
    return [starts[row] for row in rows]


@pytest.mark.parametrize(
    ("restarts", "closed", "expected"),
    [
        ([], 0, []),
        ([0], 0, [4, 8]),
        ([4], 0, [8]),
        ([8], 0, []),
        ([0], 1, [4, 8]),
        ([4], 1, [8]),
        ([0, 4], 2, [8]),
    ],
)
def test_blocks_behind_a_revision_begin_anew(restarts, closed, expected):
    assert restarted(3, {}, restarts, closed) == expected


def test_an_eos_in_front_of_a_revision_drops_what_would_begin_anew():
    assert restarted(3, {0: [1, EOS, 3, 4]}, [4]) == []
    assert restarted(3, {8: [1, EOS, 3, 4]}, [0]) == [4, 8]


def test_an_eos_of_the_prompt_closes_no_window():
    prompt = [EOS, EOS]
    assert resize(hand_made(2, prompt), {0: [*prompt, 3, 4]}, admits=[4]) == [0, 4, 8]
    assert resize(hand_made(2, prompt), {0: [*prompt, EOS, 4]}, admits=[4]) == [0]


def test_a_front_block_that_was_not_in_the_forward_admits_nothing():
    request = hand_made()
    blocks = BlockRows([request])
    request.close([1, 2, 3, 4], True, {EOS})
    outcome = Outcome([[1, 2, 3, 4]], [True], [True], [False], set())
    resize_windows([request], blocks, outcome, 3, frozenset({EOS}))
    assert request.open_starts == [4]
