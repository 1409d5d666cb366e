import pytest
import torch

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone import TrainingForward
from dmaxlit.decoding import DECODERS, JointDecoder, make_decoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.noise import LogitsPrediction, dialogue
from dmaxlit.noise.experimental import RolloutKNoise, SoftOnPolicyNoise
from dmaxlit.randomness import RowGenerator
from tests.conftest import make_batch, make_denoiser
from tests.noise.experimental.test_soft_on_policy import sharp_logits
from tests.noise.test_contract import converse

ALONE = [
    name
    for name in DECODERS
    if not make_decoder(name).extra_blocks and not issubclass(DECODERS.get(name), JointDecoder)
]


def generator_of(clean):
    return RowGenerator(0, list(range(clean.ids.shape[0])))


def steps_of(clean, k):
    """Return the number of steps of each block: the third draw of its row."""
    generator = generator_of(clean)
    generator.rand(1)
    generator.rand(clean.ids.shape[1])
    return [[1 + int(k * u) for u in row] for row in generator.rand(int(clean.blocks[-1]) + 1).tolist()]


def on_a_model(strategy, clean, denoiser):
    """Return the views of a strategy, predicted by a real model."""

    def answer(view):
        hidden = forward(view.ids, view.soft)
        return LogitsPrediction(denoiser.logits(hidden[view.supervised]), view.supervised)

    with torch.no_grad():
        forward = TrainingForward(denoiser, clean)
        return [view for view, _ in dialogue(strategy.views(clean, generator_of(clean)), answer)]


def same_mixtures(one, two):
    if one is None or two is None:
        return one is two
    at = one.where
    weights = (one.weights[at] - two.weights[at]).abs()
    return torch.equal(at, two.where) and torch.equal(one.ids[at], two.ids[at]) and bool((weights < 1e-5).all())


@pytest.mark.parametrize("name", ALONE)
def test_a_block_ends_in_the_state_the_engine_has_after_as_many_forwards(name):
    # Prompts of one block and responses of one block, all masked: the engine decodes what the rollout does.
    clean = make_batch([8] * 6, [8] * 6)
    denoiser = make_denoiser(sharpen=3.0)
    views = on_a_model(RolloutKNoise(level=1.0, steps=6, decoder=name, clean_fraction=0.0), clean, denoiser)
    engine = BlockDecoder(denoiser, make_decoder(name))
    taken = set()
    for row, prompt in enumerate(clean.ids[:, :8].tolist()):
        count = steps_of(clean, 6)[row][1]
        for event, _ in zip(engine.forwards([prompt], 8), range(count), strict=False):
            state = event.state
        taken.add(int(state.step))
        assert torch.equal(views[-1].ids[row, 8:], state.ids[0])
        assert torch.equal(views[-1].is_masked[row, 8:], state.masked[0])
        soft = views[-1].soft
        mine = None if soft is None else type(soft)(soft.ids[row, 8:], soft.weights[row, 8:], soft.where[row, 8:])
        theirs = None if soft is None else type(soft)(state.soft.ids[0], state.soft.weights[0], state.soft.where[0])
        assert same_mixtures(mine, theirs)
    assert len(taken) > 1 or name == "generate_then_edit"  # drafts all at once, and on random weights that is it


def test_each_block_takes_its_own_number_of_steps_and_keeps_visible_tokens():
    # The most confident mask is committed at each step, so masks count the steps.
    clean = make_batch([0] * 16, [64] * 16)
    logits = sharp_logits(clean)
    masked, *rollout, last = converse(
        RolloutKNoise(steps=4, decoder="one_token", clean_fraction=0.0), clean, generator_of(clean), logits
    )
    assert [view.name for view in rollout] == ["rollout"] * 3
    before = masked.is_masked.view(16, 8, 8).sum(-1)
    gone = before - last.is_masked.view(16, 8, 8).sum(-1)
    assert torch.equal(gone, torch.minimum(torch.tensor(steps_of(clean, 4)), before))
    assert torch.equal(last.ids[~masked.is_masked], clean.ids[~masked.is_masked])
    assert torch.equal(last.model_filled, masked.is_masked & ~last.is_masked)


def test_one_step_of_spd_from_all_masks_is_the_soft_on_policy_view(clean):
    logits = sharp_logits(clean)
    rolled = converse(
        RolloutKNoise(level=1.0, steps=1, decoder_options={"tau_dec": 0.3}, clean_fraction=0.0), clean, logits=logits
    )
    soft = converse(SoftOnPolicyNoise(level=1.0, tau_dec=0.3, clean_fraction=0.0), clean, logits=logits)
    assert len(rolled) == len(soft) == 2
    assert torch.equal(rolled[1].ids, soft[1].ids)
    assert same_mixtures(rolled[1].soft, soft[1].soft)


def test_spd_predicts_visible_tokens_again(clean):
    logits = sharp_logits(clean)
    masked, last = converse(
        RolloutKNoise(level=0.5, steps=1, decoder_options={"tau_dec": 0.0}, clean_fraction=0.0), clean, logits=logits
    )
    visible = clean.response & ~masked.is_masked
    assert torch.equal(last.ids[visible], logits.argmax(-1)[visible])
    assert torch.equal(last.model_filled, masked.is_masked)


def test_at_a_temperature_tokens_are_drawn(clean):
    logits = sharp_logits(clean)
    _, last = converse(RolloutKNoise(level=1.0, steps=1, temperature=3.0, clean_fraction=0.0), clean, logits=logits)
    tokens = last.ids[last.model_filled]
    assert (tokens != logits.argmax(-1)[last.model_filled]).any()


@pytest.mark.parametrize("decoder", ["spd", "threshold"])
def test_a_share_of_the_decided_positions_shows_the_clean_token(decoder):
    clean = make_batch([0] * 64, [64] * 64)
    logits = sharp_logits(clean)
    masked, *_, none = converse(RolloutKNoise(decoder=decoder, clean_fraction=0.0), clean, logits=logits)
    *_, some = converse(RolloutKNoise(decoder=decoder, clean_fraction=0.25), clean, logits=logits)
    decided = masked.is_masked & ~none.is_masked
    forced = decided & ~some.model_filled
    assert float(forced[decided].float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(some.ids, torch.where(forced, clean.ids, none.ids))
    assert torch.equal(some.is_masked, none.is_masked)
    if decoder == "spd":
        assert torch.equal(some.soft.weights, none.soft.weights)
        assert torch.equal(some.soft.ids[..., 0][forced], clean.ids[forced])


def test_large_vocabularies_are_stepped_in_parts_to_the_same_state(clean, monkeypatch):
    logits = sharp_logits(clean)
    whole = converse(RolloutKNoise(), clean, logits=logits)
    monkeypatch.setattr("dmaxlit.noise.experimental.rollout_k._MAX_LOGITS", 1)
    for one, two in zip(whole, converse(RolloutKNoise(), clean, logits=logits), strict=True):
        assert torch.equal(one.ids, two.ids)


def test_only_two_passes_have_gradients(clean):
    module = DMaxModule(make_denoiser(), RolloutKNoise(steps=4))
    answers = []
    predict = module.predict_view
    module.predict_view = lambda view, forward: answers.append(predict(view, forward)) or answers[-1]
    losses = module.view_losses(clean, generator_of(clean))
    assert [answer.logits.requires_grad for answer in answers] == [True, False, False, False, True]
    assert [loss.total.requires_grad for loss in losses] == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"decoder": "wino"}, "decoder: expected one that reads the block alone, got 'wino'"),
        ({"decoder": "codila"}, "decoder: expected one that asks no auxiliary model, got 'codila'"),
        ({"decoder": "none"}, "unknown decoder 'none'"),
        ({"decoder_options": {"tau": 1}}, "decoder 'spd': unknown option tau"),
        ({"temperature": -1.0}, "temperature: expected a number from 0 to 10000"),
        ({"masked_weight": -1.0}, "masked_weight, predicted_weight: expected numbers >= 0"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        RolloutKNoise(**options)
