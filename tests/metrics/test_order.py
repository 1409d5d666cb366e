import itertools
import math
import random

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.metrics import DecodingOrder, FinalizationParallelism, finalization_parallelism, kendall_tau
from dmaxlit.metrics import order as order_module


def random_orders(count=30):
    rng = random.Random(1)
    return [[rng.randint(1, rng.choice([2, 5, 20])) for _ in range(rng.randint(2, 25))] for _ in range(count)]


def reference_tau(finalized, variant):
    concordant = discordant = 0
    for i, j in itertools.combinations(range(len(finalized)), 2):
        concordant += finalized[i] < finalized[j]
        discordant += finalized[i] > finalized[j]
    pairs = len(finalized) * (len(finalized) - 1) / 2
    if variant == "a":
        return (concordant - discordant) / pairs
    tied = sum(finalized.count(value) * (finalized.count(value) - 1) / 2 for value in set(finalized))
    return (concordant - discordant) / math.sqrt(pairs * (pairs - tied)) if tied < pairs else math.nan


@pytest.mark.parametrize("variant", ["a", "b"])
def test_tau_is_the_count_over_pairs(variant):
    for order in random_orders():
        expected = reference_tau(order, variant)
        assert kendall_tau(torch.tensor(order), variant) == pytest.approx(expected, nan_ok=True)


def test_tau_b_is_torchmetrics_where_that_has_it():
    from torchmetrics.functional.regression import kendall_rank_corrcoef

    for order in random_orders():
        position = torch.arange(len(order)).float()
        theirs = kendall_rank_corrcoef(position, torch.tensor(order).float(), variant="b")
        if len(set(order)) > 1:
            assert kendall_tau(torch.tensor(order)) == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("variant", ["a", "b"])
def test_tau_against_another_property_is_the_count_over_pairs(variant):
    from torchmetrics.functional.regression import kendall_rank_corrcoef

    rng = random.Random(3)
    for order in random_orders():
        other = [rng.randint(1, 4) for _ in order]
        pairs = list(itertools.combinations(zip(order, other, strict=True), 2))
        surplus = sum(1 if (a - c) * (b - d) > 0 else -1 if (a - c) * (b - d) < 0 else 0 for (a, b), (c, d) in pairs)
        untied = [sum(x[k] != y[k] for x, y in pairs) for k in (0, 1)]
        below = len(pairs) if variant == "a" else math.sqrt(untied[0] * untied[1])
        tau = kendall_tau(torch.tensor(order), variant, torch.tensor(other))
        assert tau == pytest.approx(surplus / below if below else math.nan, nan_ok=True)
        if variant == "b" and min(untied):
            theirs = kendall_rank_corrcoef(torch.tensor(order).float(), torch.tensor(other).float(), variant="b")
            assert tau == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("at_once", [1, 7, 60])
def test_tau_does_not_depend_on_the_pairs_compared_at_once(monkeypatch, at_once):
    rng = random.Random(5)
    orders = [torch.tensor(order) for order in random_orders()]
    others = [torch.tensor([rng.randint(1, 4) for _ in order]) for order in orders]

    def taus():
        values = [
            kendall_tau(order, variant, against)
            for order, other in zip(orders, others, strict=True)
            for variant in ("a", "b")
            for against in (None, other)
        ]
        return [None if math.isnan(value) else value for value in values]

    whole = taus()
    monkeypatch.setattr("dmaxlit.metrics.order._PAIRS_AT_ONCE", at_once)
    assert taus() == whole


def test_the_memory_of_tau_is_that_of_some_pairs(monkeypatch):
    sizes, pair_signs = [], order_module._pair_signs

    def record(*args):
        signs = pair_signs(*args)
        sizes.append(signs.numel())
        return signs

    monkeypatch.setattr(order_module, "_pair_signs", record)
    assert kendall_tau(torch.arange(6000)) == 1.0
    assert max(sizes) <= 2**22


def test_undefined_taus_are_nan_and_the_variants_differ_where_there_are_ties():
    for short in ([], [3]):
        assert math.isnan(kendall_tau(torch.tensor(short)))
        assert math.isnan(kendall_tau(torch.tensor(short), "a"))
    together = torch.tensor([2, 2, 2])
    assert math.isnan(kendall_tau(together))
    assert kendall_tau(together, "a") == 0
    assert kendall_tau(torch.tensor([1, 1, 2]), "a") < kendall_tau(torch.tensor([1, 1, 2]), "b") < 1


def test_afp_counts_only_forwards_that_finalise_something():
    for order in random_orders():
        assert finalization_parallelism(torch.tensor(order)) == len(order) / len(set(order))
    assert math.isnan(finalization_parallelism(torch.tensor([])))


def test_metrics_are_means_over_answers_whatever_the_sharing():
    orders = [*random_orders(11), [], [4, 4]]
    afp, order = [FinalizationParallelism(), FinalizationParallelism()], [DecodingOrder(), DecodingOrder()]
    for index, finalized in enumerate(orders):
        afp[index % 2].update(torch.tensor(finalized))
        order[index % 2].update(torch.tensor(finalized), torch.zeros(len(finalized), dtype=torch.long))
    afp[0].merge_state(afp[1])
    order[0].merge_state(order[1])
    expected = [len(o) / len(set(o)) for o in orders if o]
    assert float(afp[0].compute()) == pytest.approx(sum(expected) / len(expected))
    taus = [t for t in (reference_tau(o, "b") for o in orders if len(o) > 1) if not math.isnan(t)]
    assert float(order[0].compute()) == pytest.approx(sum(taus) / len(taus))


def test_order_within_blocks_forgets_the_order_of_the_blocks():
    finalized, block = torch.tensor([2, 1, 4, 3, 9]), torch.tensor([0, 0, 1, 1, 2])
    overall, within = DecodingOrder(), DecodingOrder(within_block=True)
    overall.update(finalized, block)
    within.update(finalized, block)
    assert float(overall.compute()) == pytest.approx(reference_tau(finalized.tolist(), "b"))
    assert float(within.compute()) == -1


def test_an_unknown_variant_is_refused():
    message = "variant: expected 'b' or 'a', got 'c'"
    with pytest.raises(UserError, match=message):
        kendall_tau(torch.tensor([1]), "c")
    with pytest.raises(UserError, match=message):
        DecodingOrder("c")


def test_vectors_of_different_length_are_refused():
    with pytest.raises(ValueError, match="expected vectors of one length"):
        kendall_tau(torch.arange(3), against=torch.arange(4))
    with pytest.raises(ValueError, match="expected vectors of one length"):
        kendall_tau(torch.arange(3), against=torch.arange(1))
    with pytest.raises(ValueError, match="expected vectors of one length"):
        DecodingOrder().update(torch.arange(3), torch.zeros(1))
