"""Names of 0.1 that moved from dmaxlit.noise to dmaxlit.noise.experimental."""

import pytest

import dmaxlit.noise
from dmaxlit.noise import experimental


@pytest.mark.parametrize("name", ["RolloutKNoise", "SoftOnPolicyNoise"])
def test_a_moved_strategy_is_the_same_class_with_a_warning(name):
    with pytest.warns(DeprecationWarning, match=f"dmaxlit.noise.{name} is now dmaxlit.noise.experimental.{name}"):
        moved = getattr(dmaxlit.noise, name)
    assert moved is getattr(experimental, name)


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match=r"module 'dmaxlit.noise' has no attribute 'nothing'"):
        _ = dmaxlit.noise.nothing
