"""The states of open blocks: they follow their blocks from row to row, and new blocks begin fresh."""

from dataclasses import replace

import pytest
import torch

from dmaxlit.decoding import make_decoder
from dmaxlit.engine import Sampler
from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.block_states import BlockStates
from dmaxlit.engine.decoder_checks import DecoderChecks
from dmaxlit.engine.request import Request
from tests.engine.models import lively_denoiser


@pytest.fixture(scope="module")
def denoiser():
    return lively_denoiser(block_length=4)


@pytest.fixture
def states(denoiser):
    decoder = make_decoder("threshold", tau_semi=0.5)  # which reads the progress of the block before
    checks = DecoderChecks(decoder, denoiser.special, denoiser.vocab_size, denoiser.block_length, True)
    return BlockStates(denoiser, decoder, Sampler(), checks)


@pytest.fixture
def batch():
    return [Request(0, [1, 2, 3, 4, 5, 6], 40, block_length=4), Request(1, [], 40, block_length=4)]


def marked(state):
    """The state with the number of its row as the step of each row."""
    return replace(state, step=torch.arange(1, len(state.ids) + 1))


def test_a_fresh_block_holds_the_end_of_the_prompt_and_masks(denoiser, states, batch):
    batch[0].open_next()
    mask = denoiser.special.mask_id
    state = states.open(BlockRows(batch).rows)
    assert state.ids.tolist() == [[mask] * 4, [5, 6, mask, mask], [mask] * 4]
    assert state.editable.tolist() == [[True] * 4, [False, False, True, True], [True] * 4]
    assert (state.masked == state.editable).all()
    assert state.step.tolist() == [0, 0, 0]


def test_states_that_all_go_on_are_kept_as_they_are(states, batch):
    blocks = BlockRows(batch)
    state = states.open(blocks.rows)
    assert states.carry(state, blocks, BlockRows(batch)) is state


def test_a_new_block_takes_over_the_row_of_the_one_before_it(states, batch):
    previous = BlockRows(batch)
    state = marked(states.open(previous.rows))
    batch[0].close([5, 6, 7, 8], True, eos_ids=set())
    after = states.carry(state, previous, BlockRows(batch))
    assert after.step.tolist() == [0, 2]
    assert after.editable.all()


def test_states_follow_their_blocks_where_windows_change(states, batch):
    batch[0].open_next()
    previous = BlockRows(batch)  # rows 1 to 3: block 2 and 1 of the first, block 0 of the second
    state = marked(states.open(previous.rows))
    batch[0].close([5, 6, 7, 8], True, eos_ids=set())
    batch[1].open_next()
    after = states.carry(state, previous, BlockRows([batch[1], batch[0]]))
    assert after.step.tolist() == [0, 3, 1]


def test_dropped_blocks_leave_no_row(states, batch):
    batch[0].open_next()
    previous = BlockRows(batch)
    state = marked(states.open(previous.rows))
    batch[0].drop_behind(1)
    assert states.carry(state, previous, BlockRows(batch)).step.tolist() == [2, 3]


def test_a_block_behind_knows_the_progress_of_the_one_before_it(states, batch):
    previous = BlockRows(batch)
    state = states.open(previous.rows)
    assert states.carry(state, previous, previous).progress_before is None
    batch[0].open_next()
    batch[0].open_next()
    blocks = BlockRows(batch)  # 8 to 11 and 12 to 15 of the first prompt, then 4 to 7 of it and 0 to 3 of the other
    state = states.carry(state, previous, blocks)
    assert state.progress_before.tolist() == [0.0, 0.0, 1.0, 1.0]
    masked = state.masked.clone()
    masked[0, :3] = masked[2, 2] = False
    state = states.carry(replace(state, masked=masked), blocks, blocks)
    assert state.progress_before.tolist() == [0.5, 0.75, 1.0, 1.0]
