import itertools

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import WinoDecoder
from tests.decoding.logits import logits_of
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def start(decoder, length, prompt=()):
    ids = torch.tensor([list(prompt) + [0] * (length - len(prompt))])
    return decoder.start(ids, torch.arange(length)[None] >= len(prompt), SPECIAL)


def step(decoder, state, block, shadow):
    return decoder.step(state, torch.stack([logits_of(block), logits_of(shadow)], 1), SPECIAL)


def reference(forwards, length, prompt, tau_in, tau_out):
    """Decode a block by the paper's rule in plain Python; return its tokens after each forward, None for masks.

    Args:
        forwards: For each forward, the probabilities of the block's and of the shadow's positions.
        length: Tokens of the block.
        prompt: The first of them.
        tau_in: Threshold to commit.
        tau_out: Threshold to revoke.
    """
    block, last, history = [*prompt, *[None] * (length - len(prompt))], 30, []
    for seen, unseen in forwards:
        masks = [i for i in range(length) if block[i] is None]
        held = [i for i in range(len(prompt), length) if block[i] is not None]
        ranked = sorted(masks, key=lambda i: -max(seen[i]))
        limit = int(min(max(0.7 * len(masks), 5), 20))
        accepted = [i for i in ranked if max(seen[i]) > tau_in][:limit] or ranked[:1]
        doubted = sorted((i for i in held if unseen[i][block[i]] < tau_out), key=lambda i: unseen[i][block[i]])
        revoked = doubted[: last - 1] if len(accepted) > 1 else []
        for i in accepted:
            block[i] = seen[i].index(max(seen[i]))
        for i in revoked:
            block[i] = None
        last = len(accepted)
        history.append(list(block))
        if None not in block:
            break
    return history


@pytest.mark.parametrize(("tau_in", "tau_out"), [(0.3, 0.6), (0.6, 0.9), (0.4, 0.0), (0.2, 1.0)])
@pytest.mark.parametrize("prompt", [(), (5, 6, 7)])
def test_whole_blocks_are_decoded_by_the_rule(tau_in, tau_out, prompt):
    length, num_revoked = 24, 0
    for seed in range(10):
        logits = 2.5 * torch.randn(48, 2, length, 10, generator=torch.Generator().manual_seed(seed))
        logits[..., M] = -torch.inf
        forwards = logits.double().softmax(-1).tolist()
        expected = reference(forwards, length, prompt, tau_in, tau_out)
        decoder = WinoDecoder(tau_in, tau_out)
        state, blocks = start(decoder, length, prompt), []
        for forward in logits:
            state = decoder.step(state, forward.unsqueeze(0), SPECIAL)
            blocks.append([None if token == M else token for token in state.ids[0].tolist()])
            if state.converged:
                break
        assert blocks == expected
        for before, after in itertools.pairwise(blocks):
            num_revoked += sum(after[i] is None and before[i] is not None for i in range(length))
    assert (num_revoked > 0) == (tau_out > 0)


def test_who_sees_whom():
    expected = [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 1],
        [1, 0, 1, 1],
    ]
    assert WinoDecoder().block_attention_mask(2).int().tolist() == expected


def test_the_shadow_is_masks_behind_the_prompt_and_stays_so():
    decoder = WinoDecoder(tau_in=0.0)
    state = start(decoder, 3, prompt=(5,))
    assert state.extra_blocks.tolist() == [[[5, M, M]]]
    after = step(decoder, state, [(1, 0.9)] * 3, [(1, 0.9)] * 3)
    assert after.extra_blocks.tolist() == [[[5, M, M]]]


def test_wide_in_is_limited_and_commits_at_least_one():
    decoder = WinoDecoder(tau_in=0.6)
    nothing = [(1, 0.3)] * 10
    wide = step(decoder, start(decoder, 10), [(1, 0.9 - 0.01 * i) for i in range(10)], nothing)
    assert (~wide.masked).sum() == 7  # 0.7 of ten masks
    assert (~wide.masked)[0, :7].all()
    few = step(decoder, start(decoder, 6), [(1, 0.9)] * 6, nothing[:6])
    assert (~few.masked).sum() == 5  # at least five may go
    one = step(decoder, start(decoder, 4), [(1, 0.5), (2, 0.55), (3, 0.5), (4, 0.5)], nothing[:4])
    assert one.ids.tolist() == [[M, 2, M, M]]


def test_narrow_out_takes_back_what_the_shadow_does_not_support_the_least_supported_first():
    decoder = WinoDecoder(tau_in=0.6, tau_out=0.9)
    state = start(decoder, 8)
    first = step(decoder, state, [(1, 0.9)] * 3 + [(1, 0.3)] * 5, [(1, 0.3)] * 8)
    assert (~first.masked).sum() == 3
    # Two commits now; all three old tokens are doubted; at most 3 - 1 go back: those at 0.5 and 0.2, not 0.7.
    block = [(1, 0.9)] * 5 + [(1, 0.3)] * 3
    second = step(decoder, first, block, [(1, 0.7), (1, 0.2), (1, 0.5), *[(1, 0.9)] * 5])
    assert (~second.masked).tolist() == [[True, False, False, True, True, False, False, False]]
    assert second.ids.tolist() == [[1, M, M, 1, 1, M, M, M]]


def test_nothing_goes_back_when_only_one_is_committed():
    decoder = WinoDecoder(tau_in=0.6, tau_out=0.9)
    first = step(decoder, start(decoder, 4), [(1, 0.9)] * 2 + [(1, 0.3)] * 2, [(1, 0.3)] * 4)
    second = step(decoder, first, [(1, 0.9)] * 3 + [(1, 0.3)], [(2, 0.9)] * 4)
    assert (~second.masked).tolist() == [[True, True, True, False]]


def test_supported_tokens_stay():
    decoder = WinoDecoder(tau_in=0.6, tau_out=0.5)
    first = step(decoder, start(decoder, 4), [(1, 0.9)] * 2 + [(1, 0.3)] * 2, [(1, 0.3)] * 4)
    second = step(decoder, first, [(1, 0.9)] * 4, [(1, 0.6)] * 4)
    assert second.converged.all()


def test_no_more_than_twenty_are_committed_at_once():
    decoder = WinoDecoder(tau_in=0.6)
    block = [(1, 0.9 - 0.001 * i) for i in range(40)]
    wide = step(decoder, start(decoder, 40), block, [(1, 0.3)] * 40)
    assert (~wide.masked)[0].nonzero().flatten().tolist() == list(range(20))


@pytest.mark.parametrize("options", [{"tau_in": 1.5}, {"tau_out": -0.1}])
def test_thresholds_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name}: expected"):
        WinoDecoder(**options)
