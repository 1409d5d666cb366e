"""The bound, against slow references that ask the model for one position of one row at a time."""

import itertools
import math

import pytest
import torch

from dmaxlit.evaluation.likelihood import Continuation, Likelihood, mask_sets, num_mask_sets
from tests.conftest import make_denoiser

CONTEXT, TOKENS = [3, 11, 7, 2, 14], [5, 9, 1, 12, 6, 8]


def model(block_length, **config):
    return make_denoiser(block_length, tie_word_embeddings=False, initializer_range=0.3, **config).eval()


def distribution(denoiser, before, block, position):
    """Return log-probabilities at a position of a block after clean tokens, in a forward of its own."""
    ids = torch.tensor([before + block])
    number = torch.arange(len(ids[0])) // denoiser.block_length
    with torch.no_grad():
        hidden = denoiser.hidden((number[:, None] >= number)[None], torch.arange(len(number))[None], input_ids=ids)
        return denoiser.logits(hidden)[0, len(before) + position].log_softmax(-1)


def blocks_of(denoiser, context, tokens):
    """Yield the tokens before each block, the block with nothing but masks to be scored, and its targets."""
    length, mask, row = denoiser.block_length, denoiser.special.mask_id, context + tokens
    for start in range(len(context) // length * length, len(row), length):
        scored = {
            position: row[position] for position in range(max(start, len(context)), min(start + length, len(row)))
        }
        block = [row[p] if p < len(row) and p not in scored else mask for p in range(start, start + length)]
        yield row[:start], block, {position - start: token for position, token in scored.items()}


def mean_over_orders(denoiser, context, tokens):
    """Return the mean, over all orders in which a block's tokens can be decided, of the sum of log-probabilities."""
    total = 0.0
    for before, block, targets in blocks_of(denoiser, context, tokens):
        sums = []
        for order in itertools.permutations(targets):
            partial = list(block)
            value = 0.0
            for position in order:
                value += distribution(denoiser, before, partial, position)[targets[position]].item()
                partial[position] = targets[position]
            sums.append(value)
        total += math.fsum(sums) / len(sums)
    return total


def decided_greedily(denoiser, context, count):
    """Return tokens decided one at a time, the most confident of the block first."""
    tokens = [0] * count
    for number in range(len(list(blocks_of(denoiser, context, tokens)))):
        before, block, targets = list(blocks_of(denoiser, context, tokens))[number]
        partial = list(block)
        for _ in targets:
            choices = []
            for position in (p for p in targets if partial[p] == denoiser.special.mask_id):
                confidence, token = distribution(denoiser, before, partial, position).max(-1)
                choices.append((round(confidence.item(), 3), -position, token.item()))  # the first of equal ones
            _, position, token = max(choices)
            position = -position
            partial[position] = token
            tokens[len(before) + position - len(context)] = token
    return tokens


def bound(denoiser, context, tokens, **settings):
    ((_, value, _),) = Likelihood(denoiser, **settings)([Continuation(context, tokens)])
    return value


@pytest.mark.parametrize("context", [CONTEXT, CONTEXT[:3], CONTEXT[:4], []])
def test_all_sets_of_masks_give_the_mean_over_all_orders(context):
    denoiser = model(4)
    expected = mean_over_orders(denoiser, context, TOKENS)
    assert bound(denoiser, context, TOKENS, mc_samples=15) == pytest.approx(expected, abs=1e-4)


def test_with_blocks_of_one_token_it_is_the_likelihood_from_left_to_right():
    denoiser, mask = model(1), [model(1).special.mask_id]
    expected = sum(
        distribution(denoiser, CONTEXT + TOKENS[:index], mask, 0)[token].item() for index, token in enumerate(TOKENS)
    )
    assert bound(denoiser, CONTEXT, TOKENS, mc_samples=1) == pytest.approx(expected, abs=1e-4)


def test_the_mean_of_samples_converges_to_it():
    denoiser = model(4)
    expected = bound(denoiser, CONTEXT, TOKENS, mc_samples=15)
    values = [bound(denoiser, CONTEXT, TOKENS, mc_samples=3, seed=seed) for seed in range(60)]
    mean = torch.tensor(values).mean().item()
    error = torch.tensor(values).std().item() / len(values) ** 0.5
    assert error > 0
    assert abs(mean - expected) < 4 * error
    many = bound(denoiser, CONTEXT, TOKENS[:3], mc_samples=6, seed=1)
    assert many != bound(denoiser, CONTEXT, TOKENS[:3], mc_samples=6, seed=2)
    assert many == bound(denoiser, CONTEXT, TOKENS[:3], mc_samples=6, seed=1)


def test_it_does_not_depend_on_the_batch():
    denoiser = model(4)
    continuations = [
        Continuation(CONTEXT, TOKENS),
        Continuation(CONTEXT * 4, TOKENS[:1]),
        Continuation([], TOKENS * 3),
        Continuation(CONTEXT[:2], TOKENS[:5]),
    ]
    alone = {}
    for index, one in enumerate(continuations):
        ((_, *alone[index]),) = Likelihood(denoiser, mc_samples=5, seed=3)([one])
    together = {
        index: values for index, *values in Likelihood(denoiser, mc_samples=5, seed=3, batch_size=3)(continuations)
    }
    assert together.keys() == alone.keys()
    for index, (value, is_greedy) in alone.items():
        assert together[index] == [pytest.approx(value, abs=1e-4), is_greedy]


def test_sets_of_masks_are_made_for_one_batch_at_a_time(monkeypatch):
    made = []

    def counted(positions, most, generator):
        sets = mask_sets(positions, most, generator)
        assert len(sets) == num_mask_sets(len(positions), most)
        made.append(len(sets))
        return sets

    monkeypatch.setattr("dmaxlit.evaluation.likelihood.mask_sets", counted)
    continuations = [Continuation([1], list(range(2, 2 + count))) for count in (3, 1, 2, 3, 1, 2)]
    scores = Likelihood(model(4), mc_samples=5, batch_size=2)(continuations)
    assert [next(scores)[0], made] == [1, [1, 1]]
    assert [index for index, _, _ in scores] == [4, 2, 5, 0, 3]  # with as many forwards beside each other
    assert made == [1, 1, 3, 3, 5, 5]


@pytest.mark.parametrize("context", [CONTEXT, []])
def test_what_greedy_decoding_gives_is_greedy_and_nothing_else(context):
    denoiser = model(4)
    greedy = decided_greedily(denoiser, context, 6)
    others = [[*greedy[:index], (greedy[index] + 1) % 30, *greedy[index + 1 :]] for index in range(6)]
    continuations = [Continuation(context, tokens) for tokens in [greedy, *others]]
    result = {index: is_greedy for index, _, is_greedy in Likelihood(denoiser, mc_samples=1)(continuations)}
    assert [result[index] for index in range(7)] == [True] + [False] * 6


@pytest.mark.parametrize(("count", "most", "tolerance"), [(3, 7, 1e-9), (12, 4000, 0.15)])
def test_sets_of_masks_weigh_each_position_once(count, most, tolerance):
    sets = mask_sets(range(5, 5 + count), most, torch.Generator().manual_seed(0))
    assert len(sets) == most
    assert all(sorted(set(one.positions)) == sorted(one.positions) for one in sets)
    for position in range(5, 5 + count):
        assert sum(one.weight for one in sets if position in one.positions) == pytest.approx(1, abs=tolerance)
