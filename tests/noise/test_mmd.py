from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dmaxlit import UserError
from dmaxlit.errors import DMaxWarning
from dmaxlit.noise import LogitsPrediction, MMDNoise, View
from dmaxlit.noise.mmd_reward import advantages, distances, kernel, mean_kernel, median_bandwidth, pairs_of, rewards
from dmaxlit.noise.objectives import SampledTargets
from dmaxlit.training.losses import view_loss
from tests.conftest import make_batch
from tests.noise.test_contract import converse
from tests.noise.training_step import KINDS, check_gradients


def random_features(*shape, seed=0):
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(seed))


def slow_kernel(a, b, sigma):
    return float(torch.exp(-((a - b) ** 2).sum() / len(a) / (2 * sigma**2)))


def slow_reward(own, reference, where, sigma, form):
    """Return the reward of a group's samples in a segment, whose selected positions are ``where``."""
    pulls = [slow_kernel(s[i], reference[j], sigma) for s in own for i in where for j in where]
    pushes = [
        slow_kernel(own[b][i], own[c][j], sigma)
        for b, c in product(range(len(own)), range(len(own)))
        for i, j in product(where, where)
        if b != c and not (form == "sequence" and i == j)
    ]
    return 2 * sum(pulls) / len(pulls) - sum(pushes) / len(pushes)


@pytest.mark.parametrize("form", ["block", "sequence"])
def test_the_reward_is_that_of_the_formula(form):
    clean = make_batch([2], [14])
    selected = clean.response & (torch.arange(16) % 3 != 0)
    strategy = MMDNoise(groups=2, samples=3, bandwidth=0.9, form=form)
    reference, samples = random_features(1, 16), [random_features(1, 16, seed=n + 1) for n in range(6)]
    reward, kernels, active = strategy._rewards(clean, selected, reference, samples)
    length = 8 if form == "block" else 16
    assert reward.shape == (1, 16 // length, 2)
    for segment, group in product(range(16 // length), range(2)):
        where = [p for p in range(segment * length, (segment + 1) * length) if selected[0, p]]
        own = [sample[0] for sample in samples[3 * group : 3 * group + 3]]
        expected = slow_reward(own, reference[0], where, 0.9, form)
        assert float(reward[0, segment, group]) == pytest.approx(expected, rel=1e-4)
    assert active.all()
    assert 0 < kernels.min() <= kernels.max() < 1


def test_one_sample_is_not_repelled():
    attraction = torch.rand(2, 3, 4, 1)
    assert torch.equal(rewards(attraction, torch.rand(2, 3, 4, 1, 1)), 2 * attraction[..., 0])


def test_the_reward_is_largest_at_the_reference():
    clean = make_batch([0], [8])
    strategy, reference = MMDNoise(groups=2, samples=2, bandwidth=1.0), random_features(1, 8)
    for seed in range(1, 6):
        other = reference + 0.5 * random_features(1, 8, seed=seed)
        reward, _, _ = strategy._rewards(clean, clean.response, reference, [reference, reference, other, other])
        assert reward[0, 0, 0] > reward[0, 0, 1]


def test_equal_groups_have_no_gradient():
    clean = make_batch([0], [8])
    strategy, one, two = MMDNoise(groups=2, samples=2), random_features(1, 8), random_features(1, 8, seed=1)
    reward, _, active = strategy._rewards(clean, clean.response, random_features(1, 8, seed=2), [one, two, two, one])
    assert strategy._weights(clean, advantages(reward), active).abs().max() < 1e-6


def test_the_baseline_is_the_mean_of_the_other_groups():
    assert advantages(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[-3.0, -1.5, 4.5]]
    assert advantages(torch.tensor([[5.0]])).tolist() == [[5.0]]


@pytest.mark.parametrize(("groups", "samples"), [(2, 2), (1, 2), (2, 1)])
@pytest.mark.filterwarnings("ignore::dmaxlit.errors.DMaxWarning")
def test_the_expected_gradient_is_that_of_the_squared_discrepancy(groups, samples):
    # Two positions, two tokens, every outcome of all samples in a row of its own, weighted by its probability.
    count, sigma = groups * samples, 0.7
    outcomes = torch.tensor(list(product(range(2), repeat=2 * count))).view(-1, 2, count)
    clean = make_batch([0] * len(outcomes), [2] * len(outcomes))
    table, reference = torch.tensor([[0.0, 0.3], [1.1, -0.4]]), torch.tensor([[0.1, 0.2], [0.9, 0.5]])
    candidates = torch.zeros(*clean.ids.shape, count, dtype=torch.long)
    candidates[:, :2] = outcomes
    target = torch.zeros(*clean.ids.shape, 2)
    target[:, :2] = reference
    strategy = MMDNoise(groups=groups, samples=samples, bandwidth=sigma)
    features = [table[candidates[..., number]] for number in range(count)]
    reward, _, active = strategy._rewards(clean, clean.response, target, features)
    weights = strategy._weights(clean, advantages(reward), active)

    theta = torch.tensor([[0.3, -0.2], [-0.5, 0.4]], requires_grad=True)
    q = theta.softmax(-1)
    probability = q[torch.arange(2)[None, :, None], outcomes].prod(-1).prod(-1).detach()
    logits = theta.new_full((2, 38), -torch.inf)
    logits = torch.cat([theta, logits[:, 2:]], 1).expand(len(outcomes), -1, -1).reshape(-1, 38)
    view = View(
        clean.ids.clamp(max=1),
        clean.response,
        "v",
        weight=probability[:, None].expand(clean.ids.shape),
        objectives=(SampledTargets(candidates, weights),),
    )
    loss = view_loss(view, LogitsPrediction(logits, clean.response), clean).total / 2  # tokens of a row
    (found,) = torch.autograd.grad(loss, theta, retain_graph=True)

    k = torch.tensor([[slow_kernel(a, b, sigma) for b in table] for a in table])
    to_reference = torch.tensor([[slow_kernel(a, b, sigma) for b in reference] for a in table]).mean(1)
    mixture = q.mean(0)
    repulsion = mixture @ k @ mixture if samples > 1 else 0.0
    (expected,) = torch.autograd.grad(repulsion - 2 * mixture @ to_reference, theta)  # of MMD squared
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_the_median_bandwidth_gives_the_median_pair_a_kernel_of_exp_minus_one():
    selected = torch.ones(2, 1, 4, dtype=torch.bool)
    distance = distances(random_features(2, 1, 4), random_features(2, 1, 4, seed=1))
    sigma = median_bandwidth(distance, pairs_of(selected))
    for row in range(2):
        median = distance[row].flatten().median()
        assert float(kernel(median, sigma[row, 0, 0, 0])) == pytest.approx(0.3679, rel=1e-3)
    nothing = torch.zeros(1, 1, 2, 2)
    assert mean_kernel(nothing, median_bandwidth(nothing, nothing > 1), nothing > 1).isfinite().all()


class Operations(TorchDispatchMode):
    """Notes the operations of torch that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_the_median_is_that_of_torch_by_operations_that_are_deterministic_on_a_gpu():
    generator = torch.Generator().manual_seed(0)
    distance = torch.randint(0, 6, (40, 2, 3, 3), generator=generator).float() / 4
    pairs = torch.rand(distance.shape, generator=generator) < torch.linspace(0, 1, 40)[:, None, None, None]
    distance[7, 0, 0, 0], distance[30, 0, 1] = torch.nan, torch.inf
    with Operations() as operations:
        sigma = median_bandwidth(distance, pairs)
    median = distance.masked_fill(~pairs, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(1.0)
    assert torch.equal(sigma.flatten(), (median.clamp(min=torch.finfo(torch.float32).tiny ** 0.5) / 2).sqrt())
    assert not [name for name in operations.names if "median" in name]


def test_the_views_are_a_rollout_the_input_and_the_reinforced_samples():
    clean = make_batch([3] * 16, [13] * 16)
    rollout, sampled, reinforced = converse(MMDNoise(groups=2, samples=1, predicted_fraction=0.5), clean)
    assert not rollout.requires_grad
    assert not sampled.requires_grad
    assert torch.equal(sampled.ids, reinforced.ids)
    (objective,) = reinforced.objectives
    whole = reinforced.model_filled.any(1)
    assert 0 < whole.sum() < 16
    assert torch.equal(reinforced.supervised[whole], clean.in_loss[whole])
    assert torch.equal(reinforced.supervised[~whole], rollout.is_masked[~whole] & clean.in_loss[~whole])
    unselected = ~reinforced.supervised
    assert (objective.ids[unselected] == clean.ids[unselected].unsqueeze(-1)).all()
    assert set(reinforced.figures) == {"mmd_reward", "mmd_kernel"}


@pytest.mark.parametrize("form", ["block", "sequence"])
def test_each_sample_is_reinforced_by_the_reward_of_its_own_features(form):
    clean = make_batch([3, 9], [13, 6])
    view = converse(MMDNoise(groups=3, samples=2, bandwidth=0.9, form=form), clean)[-1]
    (objective,) = view.objectives
    modulus = torch.tensor([2.0, 3.0, 5.0])  # the features of an id in converse are its remainders
    reference, samples = clean.ids.unsqueeze(-1) % modulus, objective.ids.unsqueeze(-1) % modulus
    length, checked = 8 if form == "block" else 16, 0
    for row in range(2):
        selected = (view.supervised & clean.in_loss)[row].view(-1, length)
        active = selected.sum(1) >= (1 if form == "block" else 2)
        factor = int(clean.in_loss[row].sum()) / int(active.sum()) / (3 if form == "block" else 1)
        for segment in active.nonzero().flatten().tolist():
            where = [segment * length + place for place in selected[segment].nonzero().flatten().tolist()]
            groups = [[samples[row, :, 2 * group + number] for number in range(2)] for group in range(3)]
            reward = [slow_reward(own, reference[row], where, 0.9, form) for own in groups]
            for number in range(6):
                group = number // 2
                others = (sum(reward) - reward[group]) / 2
                weights = objective.weights[row, where, number]
                expected = torch.full_like(weights, factor * (reward[group] - others))
                torch.testing.assert_close(weights, expected, atol=1e-4, rtol=1e-4)
                checked += bool(expected.abs().min() > 0.01)
    assert checked > 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_of_every_kind_has_a_gradient(kind):
    check_gradients(MMDNoise(groups=2, samples=2), kind)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"groups": 0}, "groups: expected"),
        ({"samples": 0}, "samples: expected"),
        ({"bandwidth": 0.0}, "bandwidth: expected a number above 0 or median, got 0.0"),
        ({"bandwidth": "mean"}, "bandwidth: expected"),
        ({"predicted_fraction": 1.5}, "predicted_fraction: expected"),
        ({"form": "token"}, "form: expected"),
    ],
)
def test_bad_options_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        MMDNoise(**options)


def test_one_group_is_allowed_and_said():
    with pytest.warns(DMaxWarning, match="groups: with 1 the rewards have no baseline"):
        MMDNoise(groups=1)


def test_a_sequence_ends_with_its_first_eos():
    clean = make_batch([4], [12])
    clean.ids[0, 5:] = clean.special.eos_id
    for form, last in (("block", 15), ("sequence", 5)):
        strategy = MMDNoise(level=1.0, groups=2, samples=1, predicted_fraction=0.0, form=form)
        view = converse(strategy, clean)[-1]
        assert view.supervised[0].nonzero().flatten().tolist() == list(range(4, last + 1))


@pytest.mark.parametrize("form", ["block", "sequence"])
def test_each_segment_is_reinforced_by_its_own_advantage(form):
    clean, strategy = make_batch([3, 10], [13, 6]), MMDNoise(groups=2, samples=3, form=form)
    segments = 2 if form == "block" else 1
    advantage = torch.randn(2, segments, 2, generator=torch.Generator().manual_seed(0))
    active = torch.ones(2, segments, dtype=torch.bool)
    active[1, 0] = form == "sequence"  # a block of prompt alone
    weights = strategy._weights(clean, advantage, active)
    for row, place, sample in product(range(2), range(16), range(6)):
        segment = (place // 8) % segments
        expected = float(advantage[row, segment, sample // 3] * active[row, segment])
        expected *= int(clean.in_loss[row].sum()) / int(active[row].sum())
        expected /= 2 if form == "block" else 1  # the mean over groups, and their sum
        assert float(weights[row, place, sample]) == pytest.approx(expected, abs=1e-6)
