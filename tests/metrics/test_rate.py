import pytest
import torch

from dmaxlit.metrics import CappedRate, FinishedRate
from tests.metrics.conftest import check_sharing, column


def test_finished_is_a_share_of_answers(answers):
    expected = sum(1 for answer in answers if answer[3]) / len(answers)
    check_sharing(FinishedRate, lambda metric, part: metric.update(column(part, 3).bool()), answers, expected)


def test_capped_is_a_share_of_blocks(answers):
    blocks = {index: 3 + index % 2 for index in range(len(answers))}
    expected = sum(answer[4] for answer in answers) / sum(blocks.values())
    indexed = [(index, answer) for index, answer in enumerate(answers)]

    def update(metric, part):
        hit_step_limit = torch.tensor([answer[4] for _, answer in part], dtype=torch.long)
        metric.update(hit_step_limit, torch.tensor([blocks[index] for index, _ in part], dtype=torch.long))

    check_sharing(CappedRate, update, indexed, expected)


def test_columns_of_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="one length"):
        CappedRate().update(torch.tensor([1]), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="one length"):
        FinishedRate().update(torch.ones(2, 2))
