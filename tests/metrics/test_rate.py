import math

import pytest
import torch

from dmaxlit.metrics import FinishedRate, StepLimitRate, finished_rate, step_limit_rate
from tests.metrics.conftest import check_sharing, column


def test_finished_is_a_share_of_answers(answers):
    expected = sum(1 for answer in answers if answer[3]) / len(answers)
    check_sharing(FinishedRate, lambda metric, chunk: metric.update(column(chunk, 3).bool()), answers, expected)
    assert float(finished_rate(column(answers, 3).bool())) == pytest.approx(expected, rel=1e-12)
    assert math.isnan(finished_rate(torch.tensor([], dtype=torch.bool)))


def test_capped_is_a_share_of_blocks(answers):
    blocks = {index: 3 + index % 2 for index in range(len(answers))}
    expected = sum(answer[4] for answer in answers) / sum(blocks.values())
    indexed = [(index, answer) for index, answer in enumerate(answers)]

    def update(metric, chunk):
        hit_step_limit = torch.tensor([answer[4] for _, answer in chunk], dtype=torch.long)
        metric.update(hit_step_limit, torch.tensor([blocks[index] for index, _ in chunk], dtype=torch.long))

    check_sharing(StepLimitRate, update, indexed, expected)
    counts = torch.tensor(list(blocks.values()))
    assert float(step_limit_rate(column(answers, 4), counts)) == pytest.approx(expected, rel=1e-12)


def test_columns_of_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="one length"):
        StepLimitRate().update(torch.tensor([1]), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="one length"):
        step_limit_rate(torch.tensor([1]), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="one length"):
        FinishedRate().update(torch.ones(2, 2))
    with pytest.raises(ValueError, match="one length"):
        finished_rate(torch.ones(2, 2))
