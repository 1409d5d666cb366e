"""CoDiLA's decoders against the rules written as loops, with an auxiliary model that is a table of numbers."""

from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import CodilaDecoder, CodilaVerifyDecoder, ThresholdDecoder, make_decoder
from dmaxlit.testing.blocks import SPECIAL

B, SPANS, SIZE = 3, 4, 20


class Table:
    """A joint model whose logits depend on the marginals, and on the token before."""

    span_length = B

    def __init__(self):
        self.table = 3 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        self.table[:, SPECIAL.mask_id] = -torch.inf

    def next(self, marginal, before):
        return marginal.clamp_min(1e-9).log() + (self.table[before] if before is not None else 0)

    def decode(self, spans, choose):
        rows, tokens = spans.marginals, []
        for place in range(B):
            before = [None] * len(rows) if place == 0 else tokens[-1].tolist()
            tokens.append(
                choose(place, torch.stack([self.next(m[place], b) for m, b in zip(rows, before, strict=True)]))
            )
        return torch.stack(tokens, 1)

    def score(self, spans, tokens):
        return torch.stack(
            [
                torch.stack([self.next(m[place], row[place - 1] if place else None) for place in range(B)])
                for m, row in zip(spans.marginals, tokens.tolist(), strict=True)
            ]
        )


def blocks(seed, rows=6):
    """Blocks with a few known tokens, and logits of every sharpness."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, B * SPANS, SIZE, generator=generator)
    logits = logits * (6 * torch.rand(rows, B * SPANS, 1, generator=generator))
    logits[..., SPECIAL.mask_id] = -torch.inf
    ids = torch.randint(0, 17, (rows, B * SPANS), generator=generator)
    state = ThresholdDecoder().start(ids, torch.ones_like(ids, dtype=torch.bool), SPECIAL)
    known = torch.rand(ids.shape, generator=generator) < 0.3
    known[:, -1] = False
    return replace(state, ids=torch.where(known, ids, state.ids), masked=~known), logits


def reference(ids, masked, logits, joint, mode, tau, candidates):
    """Return the ids and masks of one row after a step, straight from the rule."""
    p = logits.softmax(-1)
    h = [0.0 if not masked[i] else float(-(p[i][p[i] > 0] * p[i][p[i] > 0].log()).sum()) for i in range(len(ids))]
    spans = [s for s in range(SPANS) if any(masked[s * B : s * B + B])][:candidates]
    best = None
    for s in spans:
        if mode == "static":
            k = B
        else:
            k = max((k for k in range(1, B + 1) if sum(h[s * B : s * B + k]) / k <= tau), default=0)
        count = sum(masked[s * B : s * B + k])
        mean = sum(h[s * B : s * B + k]) / k if k else 0.0
        cost = (mean,) if mode == "static" else (-count, mean)
        if best is None or cost < best[0]:
            best = (cost, s, k, count)
    _, s, k, count = best
    ids, masked = list(ids), list(masked)
    if mode == "dynamic" and count < 2:
        open_places = [i for i in range(len(ids)) if masked[i]]
        i = max(open_places, key=lambda i: float(p[i].max()))
        ids[i], masked[i] = int(p[i].argmax()), False
        return ids, masked
    before = None
    for j in range(B):
        i = s * B + j
        token = int(joint.next(p[i], before).argmax()) if masked[i] else ids[i]
        if masked[i] and j < k:
            ids[i], masked[i] = token, False
        before = token
    return ids, masked


@pytest.mark.parametrize("candidates", [1, 2, 10])
@pytest.mark.parametrize(("mode", "tau"), [("static", 0.5), ("dynamic", 0.3), ("dynamic", 1.0), ("dynamic", 9.0)])
def test_a_step_is_the_rule(mode, tau, candidates):
    joint, decoder = Table(), CodilaDecoder(mode, tau, candidates)
    for seed in range(5):
        state, logits = blocks(seed)
        while not state.converged.any():
            after = decoder.step_jointly(state, logits, SPECIAL, joint)
            for row in range(len(state.ids)):
                expected = reference(
                    state.ids[row].tolist(), state.masked[row].tolist(), logits[row], joint, mode, tau, candidates
                )
                assert (after.ids[row].tolist(), after.masked[row].tolist()) == expected
            state = after


def test_spans_are_the_same_without_the_auxiliary_model_and_their_tokens_the_denoisers():
    state, logits = blocks(4)
    together = CodilaDecoder().step_jointly(state, logits, SPECIAL, Table())
    apart = CodilaDecoder(joint=False).step_jointly(state, logits, SPECIAL, Table())
    committed = state.masked & ~apart.masked
    assert torch.equal(apart.masked, together.masked)
    assert torch.equal(apart.ids[committed], logits.argmax(-1)[committed])
    assert not torch.equal(apart.ids, together.ids)


def test_a_row_alone_gets_the_tokens_it_gets_in_a_batch():
    state, logits = blocks(3)
    decoder, joint = CodilaDecoder(), Table()
    together = decoder.step_jointly(state, logits, SPECIAL, joint)
    for row in range(len(state.ids)):
        index = torch.tensor([row])
        alone = decoder.step_jointly(state.select(index), logits[index], SPECIAL, joint)
        assert torch.equal(alone.ids, together.ids[index])


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0])
def test_verification_lowers_confidences_where_the_auxiliary_model_differs(penalty):
    joint = Table()
    decoder = CodilaVerifyDecoder(schedule_options={"threshold": 0.6}, penalty=penalty)
    state, logits = blocks(1)
    after = decoder.step_jointly(state, logits, SPECIAL, joint)
    p, moved = logits.softmax(-1), 0
    for row in range(len(state.ids)):
        tokens = torch.where(state.masked[row], p[row].argmax(-1), state.ids[row]).tolist()
        confidence = {}
        for i in range(B * SPANS):
            best = int(joint.next(p[row, i], tokens[i - 1] if i % B else None).argmax())
            if state.masked[row, i]:
                confidence[i] = float(p[row, i].max()) - (penalty if best != tokens[i] else 0)
                moved += best != tokens[i]
        expected = {i for i, c in confidence.items() if c > 0.6} or {max(confidence, key=confidence.get)}
        committed = (state.masked[row] & ~after.masked[row]).nonzero().flatten().tolist()
        assert set(committed) == expected
    assert moved > 5


@pytest.mark.parametrize("sharpness", [1, 10])  # with 10, most probabilities are rounded to 1
@pytest.mark.parametrize("penalty", [0.0, 1e-9])
def test_verification_without_penalty_is_the_schedule(sharpness, penalty):
    state, logits = blocks(2)
    joint = Table()
    joint.table *= sharpness
    for name, options in (
        ("threshold", {"threshold": 0.5}),
        ("entropy_bounded", {"gamma": 1.0, "proxy": "confidence"}),
        ("one_token", {}),
    ):
        decoder = CodilaVerifyDecoder(name, options, penalty=penalty)
        after = decoder.step_jointly(state, logits * sharpness, SPECIAL, joint)
        expected = decoder._inner.step(state, logits * sharpness, SPECIAL)
        assert torch.equal(after.ids, expected.ids)


SCHEDULES = {
    "threshold": {"threshold": 0.5},
    "factor": {},
    "frechet": {},
    "one_token": {},
    "entropy_gate": {"threshold": 0.5},
    "entropy_bounded": {"proxy": "confidence", "gamma": 2.0},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_penalty_matters_to_every_schedule(schedule):
    state, logits = blocks(1)
    masks = [
        CodilaVerifyDecoder(schedule, SCHEDULES[schedule], penalty=penalty)
        .step_jointly(state, logits, SPECIAL, Table())
        .masked
        for penalty in (0.0, 1.0)
    ]
    assert not torch.equal(*masks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_decoder("codila", mode="magic"), "mode: expected"),
        (lambda: CodilaDecoder(tau=-1.0), "tau: expected at least 0, got -1.0"),
        (lambda: CodilaDecoder(tau=float("nan")), "tau: expected at least 0, got nan"),
        (lambda: CodilaDecoder(candidates=0), "candidates: expected at least 1"),
        (lambda: CodilaVerifyDecoder(penalty=2.0), "penalty: expected"),
        (
            lambda: CodilaVerifyDecoder("spd"),
            "schedule: expected a decoder that .*, got 'spd'",
        ),
        (lambda: CodilaVerifyDecoder("codila"), "schedule: expected a decoder that commits by confidence"),
        (lambda: CodilaVerifyDecoder("entropy_bounded"), "commits by confidence, got .*proxy='entropy'"),
        (
            lambda: CodilaVerifyDecoder("entropy_bounded", {"proxy": "margin"}),
            "commits by confidence, got .*proxy='margin'",
        ),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
