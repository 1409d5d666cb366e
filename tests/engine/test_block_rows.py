"""The rows of a forward: blocks behind the front ones first, then the front blocks."""

import pytest

from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.request import Request


def request(index: int, prompt_length: int, num_open: int = 1) -> Request:
    """A request with blocks of four tokens."""
    opened = Request(index, list(range(prompt_length)), max_new_tokens=40, block_length=4)
    for _ in range(num_open - 1):
        opened.open_next()
    return opened


def test_front_blocks_come_last_in_the_order_of_the_requests():
    blocks = BlockRows([request(5, 6, num_open=3), request(2, 0), request(9, 9, num_open=2)])
    assert [block.key for block in blocks.rows] == [(5, 8), (5, 12), (9, 12), (5, 4), (2, 0), (9, 8)]
    assert [block.prompt_tail for block in blocks.rows] == [[], [], [], [4, 5], [], [8]]


def test_a_block_is_found_by_its_prompt_and_position():
    blocks = BlockRows([request(5, 6, num_open=2), request(2, 0)])
    assert [blocks.row_of(*block.key) for block in blocks.rows] == [0, 1, 2]
    assert blocks.find(5, 4) == 1
    assert blocks.find(5, 12) is None
    with pytest.raises(KeyError):
        blocks.row_of(2, 4)


def test_sources_are_the_rows_of_blocks_that_go_on():
    first, second = request(0, 6, num_open=3), request(1, 0)
    previous = BlockRows([first, second])
    assert [block.key for block in previous.rows] == [(0, 8), (0, 12), (0, 4), (1, 0)]
    first.close([4, 5, 6, 7], True, eos_ids=set())
    second.open_next()
    blocks = BlockRows([second, first])
    assert [block.key for block in blocks.rows] == [(1, 4), (0, 12), (1, 0), (0, 8)]
    assert blocks.sources(previous) == [None, 1, 3, 0]
    assert previous.sources(previous) == [0, 1, 2, 3]
