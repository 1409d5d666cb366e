"""Names of 0.1 that moved from dmaxlit.noise to dmaxlit.noise.experimental."""

import warnings

import pytest
from jsonargparse import ArgumentParser

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


def test_the_command_line_shows_the_new_path(capsys):
    parser = ArgumentParser()
    parser.add_argument("--noise", type=dmaxlit.noise.NoiseStrategy)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        with pytest.raises(SystemExit):
            parser.parse_args(["--help"])
    output = capsys.readouterr().out
    assert "dmaxlit.noise.experimental.RolloutKNoise" in output
    assert "dmaxlit.noise.RolloutKNoise" not in output
