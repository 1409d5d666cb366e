import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise.schedules import (
    CosineSchedule,
    FixedLevel,
    LevelCurriculum,
    LinearSchedule,
    PolynomialSchedule,
    UniformLevel,
    as_level,
)

SCHEDULES = [LinearSchedule(), CosineSchedule(), PolynomialSchedule(2.0), PolynomialSchedule(0.5)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_slope_is_the_derivative_of_the_value(schedule):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    value, slope = schedule(t)
    (derivative,) = torch.autograd.grad(value.sum(), t)
    torch.testing.assert_close(slope.detach(), derivative)
    torch.testing.assert_close(schedule.elbo_weight(t), -slope / (1 - value))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_alpha_falls_from_one_to_zero(schedule):
    alpha, _ = schedule(torch.linspace(0, 1, 50, dtype=torch.float64))
    assert alpha[0] == 1
    assert alpha[-1].abs() < 1e-9
    assert (alpha.diff() < 0).all()


def test_levels_from_numbers_pairs_and_distributions():
    u = torch.tensor([0.0, 0.5])
    assert as_level(0.3).quantile(u).tolist() == pytest.approx([0.3, 0.3])
    assert as_level((0.2, 0.6)).quantile(u).tolist() == pytest.approx([0.2, 0.4])
    level = UniformLevel()
    assert as_level(level) is level


def test_bad_levels_are_refused():
    for bad in (-0.1, 1.1):
        with pytest.raises(UserError, match=r"level: expected a number in \[0, 1\]"):
            FixedLevel(bad)
    with pytest.raises(UserError, match="low <= high"):
        UniformLevel(0.5, 0.1)
    with pytest.raises(UserError, match="pair"):
        as_level((0.1, 0.2, 0.3))
    with pytest.raises(UserError, match="power"):
        PolynomialSchedule(0)


def test_a_curriculum_is_the_stage_of_its_step():
    curriculum = LevelCurriculum({500: (0.0, 1.0), 0: (0.0, 0.5), 900: 0.75})
    half = torch.tensor([0.5])
    at = [curriculum.at(step).quantile(half).item() for step in (0, 499, 500, 899, 900, 10_000)]
    assert at == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert curriculum.quantile(half).item() == 0.25
    assert FixedLevel(0.3).at(7).quantile(half).item() == pytest.approx(0.3)


@pytest.mark.parametrize("stages", [{}, {10: 0.5}])
def test_a_curriculum_begins_at_step_0(stages):
    with pytest.raises(UserError, match="stages: expected a first stage that begins at step 0"):
        LevelCurriculum(stages)
