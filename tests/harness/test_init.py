"""How lm-eval comes to know our models."""

import sys

import pytest

from dmaxlit.errors import UserError
from dmaxlit.harness import register


def test_lm_eval_knows_the_model_by_name():
    pytest.importorskip("lm_eval")
    from lm_eval.api.registry import get_model

    register()
    register()
    from dmaxlit.harness.adapter import DMaxLM

    assert get_model("dmaxlit") is DMaxLM


def test_without_lm_eval_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="lm_eval: expected lm-evaluation-harness, found none"):
        register()
