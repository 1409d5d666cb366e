"""Who can share forwards, and who can share the steps of a decoder."""

import pytest

from dmaxlit.engine import DecodeSettings
from dmaxlit.server.job import Sharing


def sharing(module, **settings):
    made = DecodeSettings(**settings)
    return Sharing.of(made, made.make_engine(module.backbone))


@pytest.mark.parametrize(
    ("settings", "shares_forwards", "shares_steps"),
    [
        ({"max_new_tokens": 3, "max_forwards": 2, "stop": ["a"], "seed": 4}, True, True),
        ({"decoder_options": {"tau_dec": 0.3}}, True, False),
        ({"decoder": "threshold"}, True, False),
        ({"temperature": 1.0}, True, False),
        ({"window": 2}, False, False),
        ({"decoder": "wino"}, False, False),
    ],
)
def test_sharing_with_the_default_settings(module, settings, shares_forwards, shares_steps):
    default, other = sharing(module), sharing(module, **settings)
    assert (default.batch == other.batch) == shares_forwards
    assert (default.batch == other.batch and default.lane == other.lane) == shares_steps


@pytest.mark.parametrize(
    ("one", "other", "shares_forwards", "shares_steps"),
    [
        ({"temperature": 1.0, "seed": 1}, {"temperature": 0.5, "top_p": 0.3, "seed": 2}, True, True),
        ({"decoder": "wino"}, {"decoder": "wino", "max_forwards": 3}, True, True),
        ({"decoder": "wino"}, {"decoder": "psd"}, False, False),
        ({"window": 2}, {"window": 2, "admission": "converging"}, True, False),
        ({"window": 2}, {"window": 3}, False, False),
    ],
)
def test_sharing_of_two(module, one, other, shares_forwards, shares_steps):
    first, second = sharing(module, **one), sharing(module, **other)
    assert (first.batch == second.batch) == shares_forwards
    assert (first.lane == second.lane) == shares_steps
