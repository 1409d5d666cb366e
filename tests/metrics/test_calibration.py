import math

import pytest
import torch

from dmaxlit.errors import UserError
from dmaxlit.metrics import AcceptedPrecision, accepted_precision


def test_precision_is_counted_at_or_above_the_threshold_only():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(500, generator=generator)
    right = torch.rand(500, generator=generator) < confidence
    accepted = [r for c, r in zip(confidence.tolist(), right.tolist(), strict=True) if c >= 0.7]
    ranks = [AcceptedPrecision(0.7), AcceptedPrecision(0.7)]
    for rank, metric in enumerate(ranks):
        metric.update(confidence[rank::2], right[rank::2])
    ranks[0].merge_state(ranks[1])
    assert float(ranks[0].compute()) == pytest.approx(sum(accepted) / len(accepted))
    assert float(accepted_precision(confidence, right, 0.7)) == pytest.approx(sum(accepted) / len(accepted))


def test_nothing_accepted_has_no_precision_and_bad_thresholds_are_refused():
    metric = AcceptedPrecision(0.9)
    metric.update(torch.tensor([0.5]), torch.tensor([True]))
    assert math.isnan(float(metric.compute()))
    assert math.isnan(float(accepted_precision(torch.tensor([0.5]), torch.tensor([True]))))
    with pytest.raises(UserError, match=r"tau_acc: expected a number in \[0, 1\], got 2"):
        AcceptedPrecision(2)
    with pytest.raises(UserError, match=r"tau_acc: expected a number in \[0, 1\], got 2"):
        accepted_precision(torch.tensor([0.5]), torch.tensor([True]), 2)


def test_vectors_of_different_length_are_refused():
    with pytest.raises(ValueError, match="expected vectors of one length"):
        accepted_precision(torch.ones(3), torch.ones(3, 1).bool())
    with pytest.raises(ValueError, match="expected vectors of one length"):
        AcceptedPrecision().update(torch.ones(3), torch.ones(1).bool())
