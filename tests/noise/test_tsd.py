import math

import pytest
import torch

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone import TrainingForward
from dmaxlit.decoding import make_decoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.noise import LogitsPrediction, TSDNoise, dialogue
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import Role
from tests.conftest import make_batch, make_denoiser
from tests.noise.test_contract import converse
from tests.noise.test_soft_targets import probabilities, slow_divergence
from tests.noise.training_step import check_gradients


def make_lively_denoiser():
    """Build a tiny model whose predictions are sure at some positions, and depend on what is visible."""
    denoiser = make_denoiser(sharpen=12.0)
    with torch.no_grad():
        for name, parameter in denoiser.model.named_parameters():
            if "layers" in name and parameter.ndim == 2:
                parameter.mul_(8)
    return denoiser


def generator_of(clean):
    return RowGenerator(0, list(range(clean.ids.shape[0])))


def converse_with(strategy, clean, denoiser):
    """Return the views with the logits that the model has for each, ``[batch, length, vocab]``."""
    with torch.no_grad():
        forward = TrainingForward(denoiser, clean)
        pairs = []

        def answer(view):
            logits = denoiser.logits(forward(view.ids, view.soft, view.groups))
            pairs.append((view, logits))
            return LogitsPrediction(logits[view.supervised], view.supervised)

        list(dialogue(strategy.views(clean, generator_of(clean)), answer))
        return pairs


def slow_decided(clean, masked, pairs, threshold, steps):
    """Return the forward at which each position of a block is decided, by the rule, one position at a time."""
    decided = {}
    for row in range(clean.ids.shape[0]):
        for start in range(0, clean.ids.shape[1], clean.block_length):
            left = [c for c in range(start, start + clean.block_length) if masked[row, c]]
            for step in range(steps):
                top = {c: max(probabilities(pairs[step][1][row, c])) for c in left}
                now = [c for c in left if top[c] > threshold] or ([max(left, key=top.get)] if left else [])
                for column in left if step == steps - 1 else now:
                    decided[row, column] = step
                left = [c for c in left if (row, c) not in decided]
    return decided


@pytest.mark.parametrize(("steps", "level"), [(None, 1.0), (3, 1.0), (None, 0.6)])
def test_the_loss_is_that_of_the_formula(steps, level):
    clean = make_batch([3, 8], [13, 14])
    denoiser = make_lively_denoiser()
    pairs = converse_with(TSDNoise(level, threshold=0.25, steps=steps), clean, denoiser)
    *rollout, (view, logits) = pairs
    steps = steps or 8
    assert len(rollout) == steps
    decided = slow_decided(clean, rollout[0][0].is_masked, pairs, 0.25, steps)
    assert len(set(decided.values())) > 1

    generator = generator_of(clean)
    generator.rand(1)
    generator.rand(clean.ids.shape[1])
    u = generator.rand(int(clean.blocks[-1]) + 1)
    expected, masked, counts = 0.0, torch.zeros_like(clean.response), []
    for row in range(2):
        for block in range(clean.ids.shape[1] // 8):
            last = max((step for (r, c), step in decided.items() if r == row and c // 8 == block), default=-1)
            counts += [last + 1] if last >= 0 else []
            drawn = int(u[row, block] * (last + 1))
            for (r, column), step in decided.items():
                if r == row and column // 8 == block and step >= drawn:
                    masked[row, column] = True
                    p, q = logits[row, column], pairs[step][1][row, column]
                    expected += slow_divergence(probabilities(p), probabilities(q), "jsd")
    assert torch.equal(view.supervised, masked)
    assert torch.equal(view.is_masked, masked)
    assert torch.equal(view.ids, clean.with_masks(masked))
    total, number = view.figures["trajectory_forwards"]
    assert (int(total), int(number)) == (sum(counts), len(counts))

    module = DMaxModule(denoiser, TSDNoise(level, threshold=0.25, steps=None if steps == 8 else steps))
    losses = module.view_losses(clean, generator_of(clean))
    assert [loss.total.requires_grad for loss in losses] == [False] * steps + [True]
    assert float(losses[-1].total.detach()) == pytest.approx(expected, rel=1e-3)
    assert expected > 0.01


def test_a_text_that_the_model_decodes_is_replayed_as_it_was_decoded():
    denoiser, threshold = make_lively_denoiser(), 0.25
    prompts = make_batch([8] * 5, [8] * 5)
    engine = BlockDecoder(denoiser, make_decoder("threshold", threshold=threshold))
    ids, states = prompts.ids.clone(), []
    for row, prompt in enumerate(prompts.ids[:, :8].tolist()):
        states.append([event.state for event in engine.forwards([prompt], 8)])
        ids[row, 8:] = states[-1][-1].ids[0]
    clean = type(prompts)(ids, prompts.roles, 8, prompts.special)
    *rollout, _ = converse_with(TSDNoise(threshold=threshold), clean, denoiser)
    lengths = set()
    for row, decoded in enumerate(states):
        lengths.add(len(decoded))
        for step, state in enumerate(decoded[: len(rollout) - 1]):
            assert torch.equal(rollout[step + 1][0].is_masked[row, 8:], state.masked[0])
            assert torch.equal(rollout[step + 1][0].ids[row, 8:], state.ids[0])
    assert len(lengths) > 1


def test_the_earlier_state_is_drawn_from_all_forwards_of_its_block():
    # Equal predictions are decided from left to right, one at each forward.
    clean = make_batch([0] * 64, [64] * 64)
    view = converse(TSDNoise(), clean, logits=torch.zeros(*clean.ids.shape, 38))[-1]
    left = view.is_masked.view(-1, 8).sum(-1)
    assert torch.equal(view.is_masked.view(-1, 8), torch.arange(8) >= 8 - left[:, None])
    assert set(left.tolist()) == set(range(1, 9))
    assert max(left.bincount().tolist()) < 100  # of 512


def test_the_first_forward_that_decides_all_leaves_nothing_to_learn(clean):
    module = DMaxModule(make_denoiser(), TSDNoise(threshold=0.0))
    losses = module.view_losses(clean, generator_of(clean))
    assert float(losses[-1].total.detach()) == pytest.approx(0, abs=1e-5)


def test_long_answers_are_worth_less():
    clean = make_batch([2, 2, 2], [10, 30, 20])
    strategy = TSDNoise(length_penalty=0.5, target_length=10, max_length=30)
    view = converse(strategy, clean)[-1]
    assert view.weight[:, 0].tolist() == pytest.approx([1.0, 0.5, 0.75])
    assert converse(TSDNoise(), clean)[-1].weight.unique().tolist() == [1.0]
    shorter = TSDNoise(length_penalty=1.0, target_length=2, max_length=16)
    assert converse(shorter, clean)[-1].weight[:, 0].tolist() == pytest.approx([1 - 8 / 14, 0, 0])


def test_divergence_is_at_most_log_two_for_each_masked_token(clean):
    module = DMaxModule(make_denoiser(sharpen=9.0), TSDNoise())
    last = module.view_losses(clean, generator_of(clean))[-1]
    assert 0 < float(last.total.detach()) < math.log(2) * int(last.supervised)


@pytest.mark.parametrize("kind", ["lora", "recompute", "doubled"])
def test_a_training_step_of_every_kind_has_a_gradient(kind):
    check_gradients(TSDNoise(steps=4), kind)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"threshold": 1.5}, "threshold: expected"),
        ({"steps": 1}, "steps: expected at least 2, got 1"),
        ({"length_penalty": 2.0}, "length_penalty: expected"),
        ({"target_length": 20}, "length_penalty: expected above 0 with a target_length or max_length, got 0"),
        ({"length_penalty": 0.5}, "target_length, max_length: expected two numbers, .* got None and None"),
        ({"length_penalty": 0.5, "target_length": 9, "max_length": 9}, "target_length, max_length: .* got 9 and 9"),
        ({"length_penalty": 0.5, "target_length": -1, "max_length": 9}, "target_length: expected at least 0"),
    ],
)
def test_bad_options_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        TSDNoise(**options)


def test_blocks_of_one_token_which_have_no_earlier_state_are_refused():
    with pytest.raises(UserError, match=r"noise: expected blocks of at least 2 tokens for tsd, .* got 1"):
        converse(TSDNoise(), make_batch([3], [13], block_length=1))


@pytest.mark.parametrize("fill", [False, True])
def test_the_value_of_an_answer_does_not_depend_on_its_place_in_the_last_block(fill):
    strategy = TSDNoise(length_penalty=1.0, target_length=4, max_length=20)
    values = set()
    for prompt in range(1, 9):
        clean = make_batch([prompt], [7], fill=fill)
        clean.ids[0, prompt + 6] = clean.special.eos_id
        if not fill:  # EOS tokens of the response fill the block
            clean.roles[0, prompt + 7 :], clean.ids[0, prompt + 7 :] = Role.RESPONSE, clean.special.eos_id
        values.add(round(float(converse(strategy, clean)[-1].weight[0, 0]), 4))
    assert values == {round(1 - 3 / 16, 4)}
