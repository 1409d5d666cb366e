import math

import pytest
import torch

from dmaxlit.metrics import TokensPerSecond, tokens_per_second
from tests.metrics.conftest import check_sharing, column


def update(metric, answers):
    seconds = sum(0.25 * forwards for _, _, forwards, *_ in answers)
    metric.update(column(answers, 1).long(), seconds)


def test_tokens_over_seconds_of_all_calls_and_ranks(answers):
    seconds = 0.25 * sum(answer[2] for answer in answers)
    check_sharing(TokensPerSecond, update, answers, sum(answer[1] for answer in answers) / seconds)


def test_functional_form():
    assert float(tokens_per_second(torch.tensor([3, 4]), 2.0)) == 3.5
    assert math.isinf(tokens_per_second(torch.tensor([3]), 0.0))


def test_negative_time_is_refused():
    with pytest.raises(ValueError, match="seconds"):
        TokensPerSecond().update(torch.tensor([3]), -1.0)
    with pytest.raises(ValueError, match="seconds"):
        tokens_per_second(torch.tensor([3]), -1.0)
