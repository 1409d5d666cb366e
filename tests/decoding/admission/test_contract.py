"""What every registered admission policy must do."""

from typing import Any

import pytest

from dmaxlit.decoding.admission import ADMISSIONS
from dmaxlit.testing import admission_properties

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ADMISSIONS} | {
    "multi_bd, as published": ("multi_bd", {"keeps_closed": True}),
    "multi_bd, late": ("multi_bd", {"tau_add": 0.9, "tau_stable": 0.9}),
    "restarting, at any change": ("restarting", {"tau_restart": 0.0}),
}
CASES = [
    pytest.param(check, id=f"{variant}: {check}")
    for variant, (name, options) in VARIANTS.items()
    for check in admission_properties(name, **options)
]


@pytest.mark.parametrize("check", CASES)
def test_property(check):
    check()
