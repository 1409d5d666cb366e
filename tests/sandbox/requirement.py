"""Tests that run code need namespaces."""

import pytest

from dmaxlit.sandbox.isolation import reason_against

REASONS = {level: reason_against(level) for level in ("bubblewrap", "namespaces")}
needs_sandbox = pytest.mark.skipif(all(REASONS.values()), reason=f"no sandbox here: {REASONS}")
