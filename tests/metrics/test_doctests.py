import doctest
import importlib
import pkgutil

import pytest

import dmaxlit.metrics

MODULES = [f"dmaxlit.metrics.{module.name}" for module in pkgutil.iter_modules(dmaxlit.metrics.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize(
    "name", ["tpf", "tpf_interval", "tps", "accuracy", "rate", "ceiling", "aup", "order", "revision", "calibration"]
)
def test_metric_has_an_example(name):
    assert doctest.testmod(importlib.import_module(f"dmaxlit.metrics.{name}")).attempted >= 2
