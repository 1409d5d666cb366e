import random
from collections import Counter

import pytest
import torch

from dmaxlit.metrics import Revisions, count_revisions


def reference(timeline, right):
    counts = Counter(shown=0, introduced=0, corrected=0, corrupted=0, revised=0)
    for position, truth in enumerate(right):
        before = -1
        for row in timeline:
            now = row[position]
            if before == -1 and now != -1:
                counts["shown"] += 1
                counts["introduced"] += now != truth
            elif before != -1 and now != -1 and before != now:
                counts["revised"] += 1
                counts["corrected"] += now == truth
                counts["corrupted"] += before == truth
            before = now
    return dict(counts)


def random_timelines(count=20):
    rng = random.Random(2)
    for _ in range(count):
        n, forwards = rng.randint(1, 9), rng.randint(1, 8)
        yield [[rng.choice([-1, 0, 0, 1]) for _ in range(n)] for _ in range(forwards)], [rng.randint(0, 1)] * n


def test_counts_are_those_of_a_walk_along_each_position():
    for timeline, right in random_timelines():
        assert count_revisions(torch.tensor(timeline), torch.tensor(right)) == reference(timeline, right)


def test_rates_are_per_token_shown_over_all_answers_and_ranks():
    ranks, totals = [Revisions(), Revisions()], Counter()
    for index, (timeline, right) in enumerate(random_timelines()):
        ranks[index % 2].update(torch.tensor(timeline), torch.tensor(right))
        totals.update(reference(timeline, right))
    ranks[0].merge_state(ranks[1])
    rates = ranks[0].compute()
    assert set(rates) == {"introduced", "corrected", "corrupted", "revised"}
    for name, rate in rates.items():
        assert float(rate) == pytest.approx(totals[name] / totals["shown"])


@pytest.mark.parametrize(("timeline", "reference"), [((4, 3), (1,)), ((4, 3), (4,)), ((3,), (3,))])
def test_other_shapes_are_refused(timeline, reference):
    with pytest.raises(ValueError, match=r"expected a timeline \[F, n\] and a reference \[n\], got shapes"):
        count_revisions(torch.zeros(timeline), torch.zeros(reference))
