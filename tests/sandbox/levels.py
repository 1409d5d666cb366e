"""The levels of the sandbox that this machine has."""

import pytest

from dmaxlit.sandbox.isolation import reason_against


def levels():
    """Return a parameter for each level; those that do not work here are skipped with the reason."""
    return [
        *(
            pytest.param(
                level, marks=pytest.mark.skipif(bool(reason := reason_against(level)), reason=f"{level}: {reason}")
            )
            for level in ("bubblewrap", "namespaces")
        ),
        "rlimits",
    ]
