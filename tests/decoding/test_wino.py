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
