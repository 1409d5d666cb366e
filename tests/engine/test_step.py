"""The step of a decoder that asks the auxiliary model."""

from dataclasses import replace

import torch

from dmaxlit.decoding.joint import JointDecoder
from dmaxlit.engine import BlockDecoder
from tests.engine.models import lively_denoiser


class TwoVersions(JointDecoder):
    """Take the most probable tokens; read a second version of the block, and note what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    @property
    def extra_blocks(self):
        return 1

    def start(self, ids, editable, special):
        state = super().start(ids, editable, special)
        return replace(state, extra_blocks=state.ids.unsqueeze(1))

    def step_jointly(self, state, logits, special, joint):
        self.told.append((tuple(logits.shape), joint))
        ids = torch.where(state.masked, logits[:, 0].argmax(-1), state.ids)
        return state.advance(ids, torch.zeros_like(state.masked), torch.ones_like(state.converged))


def test_a_joint_decoder_with_extra_blocks_is_told_of_the_auxiliary_model():
    denoiser = lively_denoiser()
    decoder = TwoVersions()
    (sequence,) = BlockDecoder(denoiser, decoder).decode([[1, 2, 3]], max_new_tokens=5)
    assert sequence.num_extra_blocks == sequence.num_forwards == len(decoder.told) == 1
    assert decoder.told == [((1, 2, denoiser.block_length, denoiser.vocab_size), denoiser.auxiliary)]
