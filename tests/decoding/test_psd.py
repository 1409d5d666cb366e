import random

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import PSDDecoder, ThresholdDecoder
from tests.decoding.logits import fresh, logits_of, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def start(decoder, length):
    ids = torch.zeros(1, length, dtype=torch.long)
    return decoder.start(ids, torch.ones(1, length, dtype=torch.bool), SPECIAL)


def step(decoder, state, *blocks):
    return decoder.step(state, torch.stack([logits_of(block) for block in blocks], 1), SPECIAL)


def test_drafts_are_nested_and_follow_the_ranking():
    decoder = PSDDecoder(depth=2, threshold=0.9)
    guess = [(1, 0.5), (2, 0.95), (3, 0.7), (4, 0.6), (5, 0.4)]
    state = step(decoder, start(decoder, 5), guess, guess, guess)
    assert state.ids.tolist() == [[M, 2, M, M, M]]
    assert state.extra_blocks.tolist() == [[[M, 2, 3, M, M], [M, 2, 3, 4, M]]]


def test_the_deepest_draft_that_holds_is_accepted_and_its_own_logits_seed_the_next_step():
    decoder = PSDDecoder(depth=2, threshold=0.9)
    guess = [(1, 0.5), (2, 0.95), (3, 0.7), (4, 0.6), (5, 0.4)]
    state = step(decoder, start(decoder, 5), guess, guess, guess)
    sees_2 = [(1, 0.5), (2, 0.9), (3, 0.8), (6, 0.7), (5, 0.4)]  # agrees with token 3
    sees_3 = [(1, 0.5), (2, 0.9), (3, 0.9), (4, 0.8), (5, 0.4)]  # agrees with token 4
    sees_4 = [(7, 0.99), (2, 0.9), (3, 0.9), (4, 0.9), (5, 0.4)]
    after = step(decoder, state, sees_2, sees_3, sees_4)
    assert after.ids.tolist() == [[7, 2, 3, 4, M]]  # both drafts, then the policy on the last block


def test_a_draft_above_one_that_fails_is_not_accepted():
    decoder = PSDDecoder(depth=2, threshold=0.9)
    guess = [(1, 0.5), (2, 0.95), (3, 0.7), (4, 0.6), (5, 0.4)]
    state = step(decoder, start(decoder, 5), guess, guess, guess)
    denies_3 = [(1, 0.5), (2, 0.9), (6, 0.8), (4, 0.7), (5, 0.4)]
    after = step(decoder, state, denies_3, guess, guess)
    assert after.ids.tolist() == [[M, 2, 6, M, M]]  # nothing accepted; the policy takes its best
    denies_4 = [(1, 0.5), (2, 0.9), (3, 0.9), (6, 0.8), (5, 0.4)]
    after = step(decoder, state, guess, denies_4, guess)
    assert after.ids.tolist() == [[M, 2, 3, 6, M]]  # the first draft only


def test_inside_a_wrong_token_may_vouch_for_itself():
    decoder = PSDDecoder(depth=1, threshold=0.9, verify="inside")
    guess = [(1, 0.5), (2, 0.95), (3, 0.7)]
    state = step(decoder, start(decoder, 3), guess, guess)
    denies_3, vouches = [(1, 0.5), (2, 0.9), (6, 0.8)], [(1, 0.5), (2, 0.9), (3, 0.8)]
    assert step(decoder, state, denies_3, vouches).ids.tolist() == [[1, 2, 3]]
    below = PSDDecoder(depth=1, threshold=0.9)
    state = step(below, start(below, 3), guess, guess)
    assert step(below, state, denies_3, vouches).ids.tolist() == [[M, 2, 6]]


def reference(length, model, depth, threshold, draft_tokens, verify):
    """Run the paper's loop on lists; ``model(blocks)`` returns ``(token, confidence)`` for each position of each."""
    ids, drafts = [M] * length, [[M] * length for _ in range(depth)]
    added = [set() for _ in range(depth)]
    while M in ids:
        answers = model([ids, *drafts])
        accepted = 0
        for j in range(depth, 0, -1):
            if verify == "below":
                holds = all(drafts[-1][i] == answers[m - 1][i][0] for m in range(1, j + 1) for i in added[m - 1])
            else:
                holds = all(drafts[-1][i] == answers[j][i][0] for m in range(1, j + 1) for i in added[m - 1])
            if holds:
                accepted = j
                break
        ids, answer = list(drafts[accepted - 1] if accepted else ids), answers[accepted]
        ranking = sorted((i for i in range(length) if ids[i] == M), key=lambda i: (-answer[i][1], i))
        committed = [i for i in ranking if answer[i][1] > threshold] or ranking[:1]
        for i in committed:
            ids[i] = answer[i][0]
        rest = [i for i in ranking if i not in committed]
        chunk = draft_tokens or max(1, len(committed))
        added = [set(rest[j * chunk : (j + 1) * chunk]) for j in range(depth)]
        drafts, draft = [], list(ids)
        for positions in added:
            draft = [answer[i][0] if i in positions else token for i, token in enumerate(draft)]
            drafts.append(draft)
        yield ids


@pytest.mark.parametrize("verify", ["below", "inside"])
@pytest.mark.parametrize("draft_tokens", [None, 1, 2])
@pytest.mark.parametrize("depth", [1, 3])
def test_it_is_the_paper_s_loop(depth, draft_tokens, verify):
    def answer(block):
        """Predict tokens and confidences from a hash of the whole block."""
        rng = random.Random(str(block))
        return [
            (token, 0.9) if token != M and rng.random() < 0.8 else (rng.randint(0, 1), round(rng.uniform(0.3, 0.99), 3))
            for token in block
        ]

    for seed in range(10):
        length = 5 + seed % 4
        decoder = PSDDecoder(depth, threshold=0.85, draft_tokens=draft_tokens, verify=verify)
        state = start(decoder, length)
        expected = reference(
            length, lambda blocks: [answer(block) for block in blocks], depth, 0.85, draft_tokens, verify
        )
        for ids in expected:
            blocks = [state.ids[0].tolist(), *state.extra_blocks[0].tolist()]
            state = step(decoder, state, *[answer(block) for block in blocks])
            assert state.ids.tolist()[0] == ids
        assert state.converged.all()


def test_a_model_that_does_not_look_accepts_everything():
    decoder = PSDDecoder(depth=3, threshold=1.0)
    guess = [(1, 0.5), (2, 0.95), (3, 0.7), (4, 0.6), (5, 0.4), (6, 0.3)]
    state, steps = start(decoder, 6), 0
    while not state.converged.all():
        state, steps = step(decoder, state, *[guess] * 4), steps + 1
    assert (state.ids.tolist(), steps) == ([[1, 2, 3, 4, 5, 6]], 3)  # 1 + (3 + 1) + 1, not one at a time


def test_local_leap_relaxes_the_threshold_next_to_an_anchor():
    decoder = PSDDecoder(1, "local_leap", threshold=0.9, relaxed=0.7, radius=1)
    guess = [(1, 0.8), (2, 0.65), (3, 0.95), (4, 0.75), (5, 0.8), (6, 0.8)]
    state = step(decoder, start(decoder, 6), guess, guess)
    assert state.ids.tolist() == [[M, M, 3, 4, M, M]]


def test_a_radius_beyond_the_block_reaches_all_of_it_at_no_cost():
    guess = [(1, 0.8), (2, 0.65), (3, 0.95), (4, 0.75), (5, 0.8), (6, 0.8)]
    for radius in (6, 2**62):
        decoder = PSDDecoder(1, "local_leap", threshold=0.9, relaxed=0.7, radius=radius)
        state = step(decoder, start(decoder, 6), guess, guess)
        assert state.ids.tolist() == [[1, M, 3, 4, 5, 6]]


def test_its_policy_alone_is_threshold_decoding():
    plain = ThresholdDecoder(0.6)
    (expected,) = run(plain, fresh(plain), [(1, 0.5), (2, 0.7), (3, 0.55), (4, 0.95)])
    guess = [(1, 0.5), (2, 0.7), (3, 0.55), (4, 0.95)]
    decoder = PSDDecoder(threshold=0.6)
    assert torch.equal(step(decoder, start(decoder, 4), *[guess] * 4).ids, expected.ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth: expected at least 1, got 0"),
        ({"depth": 257}, "depth: expected at most 256, got 257"),
        ({"policy": "luck"}, "policy: expected 'confidence' or 'local_leap', got 'luck'"),
        ({"verify": "never"}, "verify: expected 'below' or 'inside', got 'never'"),
        ({"threshold": 2.0}, r"threshold: expected a number in \[0, 1\], got 2.0"),
        ({"draft_tokens": 0}, "draft_tokens: expected at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        PSDDecoder(**options)
