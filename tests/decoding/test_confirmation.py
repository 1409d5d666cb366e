"""Which decoders always spend a second forward on a block: half of TokensPerBlock bounds these, and no others."""

import pytest
import torch

from dmaxlit.decoding import make_decoder
from dmaxlit.testing.blocks import NUM_ROWS, SPECIAL

LENGTH = 5  # what wino may commit at once

CONFIRM = [
    ("edit", {}),
    ("edit", {"preset": "speed"}),
    ("t2m", {}),
    ("uniform", {}),
    ("generate_then_edit", {}),
    ("spd", {"stop_on_confidence": False}),
]
NEED_NOT = [("spd", {}), ("spd", {"stop_on_consistency": False}), ("wino", {}), ("edit", {"max_post_edit_steps": 0})]


def after_a_certain_forward(name, options):
    """Return which blocks have converged after a forward that leaves no doubt."""
    decoder = make_decoder(name, **options)
    ids = torch.zeros(NUM_ROWS, LENGTH, dtype=torch.long)
    state = decoder.start(ids, torch.ones_like(ids, dtype=torch.bool), SPECIAL)
    versions = (1 + decoder.extra_blocks,) if decoder.extra_blocks else ()
    logits = torch.full((NUM_ROWS, *versions, LENGTH, SPECIAL.vocab_size), -100.0)
    logits[..., 3] = 100.0
    state = decoder.step(state, logits, SPECIAL)
    assert not state.masked.any()
    return state.converged.tolist()


@pytest.mark.parametrize(("name", "options"), CONFIRM)
def test_a_block_is_not_closed_before_a_further_forward(name, options):
    assert after_a_certain_forward(name, options) == [False] * NUM_ROWS


@pytest.mark.parametrize(("name", "options"), NEED_NOT)
def test_a_block_may_be_closed_after_its_first_forward(name, options):
    assert after_a_certain_forward(name, options) == [True] * NUM_ROWS
