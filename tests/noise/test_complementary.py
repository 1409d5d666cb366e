import torch

from dmaxlit.noise import ComplementaryNoise
from dmaxlit.noise.schedules import CosineSchedule
from tests.conftest import make_batch
from tests.noise.test_contract import converse


def test_every_response_token_is_masked_and_supervised_in_exactly_one_view(clean):
    one, other = converse(ComplementaryNoise(level=0.4), clean)
    count = torch.zeros_like(clean.ids)
    for view in (one, other):
        assert torch.equal(view.supervised, view.is_masked)
        for row in range(clean.ids.shape[0]):
            for column in range(clean.ids.shape[1]):
                masked = int(view.ids[row, column]) == clean.special.mask_id
                count[row, column] += masked
                assert masked or view.ids[row, column] == clean.ids[row, column]
    assert torch.equal(count, clean.response.long())
    assert one.weight == other.weight == 1.0


def test_the_inverse_has_the_opposite_rate_under_any_schedule():
    clean = make_batch([0] * 64, [256] * 64)
    for schedule in (None, CosineSchedule()):
        for view in converse(ComplementaryNoise(level=0.3, schedule=schedule), clean)[1:]:
            assert abs(float(view.is_masked.float().mean()) - float(view.level.mean())) < 0.02
