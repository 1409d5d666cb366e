"""Tests that call an answer's code through the pipe."""

import pytest

from dmaxlit import UserError
from dmaxlit.sandbox import SandboxSettings, run_tests
from dmaxlit.sandbox import judge as judge_module
from tests.sandbox.requirement import needs_sandbox

SETTINGS = SandboxSettings(wall_seconds=30)
pytestmark = needs_sandbox


def judge(code, tests, **options):
    return run_tests(code, tests, settings=SETTINGS, **options)


@pytest.mark.parametrize(
    "value",
    [
        "[None, True, -1, 2.5, 'ä\\ud800', b'x', 3j]", "(1, (2, [3]))", "{1: [2], (3, 4): {5}}", "frozenset({1})",
        "10**5000", "-(2**70)", "float('inf')", "range(3, 9, 2)", "bytearray(b'x')", "int", "[int, str]",
        "__import__('decimal').Decimal('1.10')", "__import__('fractions').Fraction(1, 3)",
        "__import__('datetime').date(2020, 1, 2)",
    ],
)  # fmt: skip
def test_plain_values_cross_in_both_directions_with_their_types(value):
    tests = f"value = {value}\nassert same(value) == value\nassert type(same(value)) is type(value)"
    assert judge("def same(x):\n    return x", tests).detail == ""


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("from collections import Counter\ndef f():\n    return Counter('aab')",
         "assert type(f()) is dict and f()['a'] == 2"),
        ("def f():\n    yield from (1, 2)", "assert list(f()) == [1, 2]"),
        ("def f():\n    return {1: 2}.keys()", "assert f() == {1}"),
        ("def f():\n    return float('nan')", "assert f() != f()"),
        ("class Node:\n    def __init__(self, x):\n        self.x, self.next = x, 0\ndef f(n):\n    return n.next.x",
         "n = Node(1)\nn.next = Node(2)\nassert f(n) == 2 and n.next.x == 2"),
        ("def f():\n    return lambda x: x + 1", "assert f()(1) == 2"),
        ("def f(x):\n    raise KeyError(x)", "try:\n    f(1)\n    raise SystemExit\nexcept LookupError:\n    pass"),
        ("class Own(ValueError):\n    pass\ndef f():\n    raise Own('why')",
         "try:\n    f()\n    raise SystemExit\nexcept ValueError as e:\n    assert str(e) == 'why'"),
        ("def f(a, *, b):\n    return a + b", "assert f(1, b=2) == 3"),
        ("def f(x):\n    x.append(1)", "value = []\nf(value)\nassert value == []"),
        ("LIMIT = 7", "assert LIMIT == 7"),
    ],
)  # fmt: skip
def test_calls_cross(code, test):
    assert judge(code, test).detail == ""


@pytest.mark.parametrize(
    ("code", "tests", "detail"),
    [
        ("def f(x):\n    return x", "\nassert f(1) == 2, 'not two'", "AssertionError: not two (line 2 of the tests)"),
        ("def f(x):\n    raise ValueError('one\\ntwo')", "assert f(1) == 1", "ValueError: one two (line 1"),
        ("def g():\n    pass", "assert f(1) == 1", "the sample does not define f"),
        ("def f(:", "assert f(1) == 1", "SyntaxError"),
        ("1 / 0", "assert f(1) == 1", "ZeroDivisionError: division by zero"),
        ("import os\ndef f(x):\n    os._exit(3)", "assert f(1) == 1", "the sample's process ended"),
        ("def f(x):\n    return x", "assert f(object()) == 1", "TypeError: expected plain data in a call"),
        ("import numpy\ndef f(x):\n    return x", "assert f(1) == 1", "No module named 'numpy'"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(code, tests, detail):
    verdict = judge(code, tests)
    assert verdict.outcome == "failed"
    assert detail in verdict.detail
    assert "\n" not in verdict.detail


def test_names_of_the_sample_do_not_hide_names_of_the_tests():
    code = "def f(x):\n    return x\ndef helper(x):\n    return 0\nsum = helper"
    assert judge(
        code, "assert helper(f(2)) == 4 and sum([f(1)]) == 1", preamble="def helper(x):\n    return 2 * x"
    ).passed
    assert judge(code, "assert sum([f(1)]) == 0", names=["f", "sum"]).passed


def test_tests_may_import_this_environment_and_samples_on_request():
    tests = "import numpy\nassert numpy.allclose(f(), 1)"
    assert judge("def f():\n    return 1.0", tests).passed
    code = "import numpy\ndef f():\n    return float(numpy.ones(1)[0])"
    assert run_tests(code, tests, settings=SandboxSettings(site_packages=True, wall_seconds=30)).detail == ""


@pytest.mark.parametrize(
    ("preamble", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import os; os._exit(127)", "their process ended before them"),
    ],
)
def test_tests_that_cannot_run_are_an_error(preamble, reason):
    verdict = judge("f = 1", "assert f == 1", preamble=preamble)
    assert (verdict.outcome, verdict.detail) == ("error", f"the tests cannot be run: {reason}")


def test_tests_whose_process_dies_once_are_run_again(monkeypatch):
    run_pair, died = judge_module._run_pair, []

    def dies_once(*arguments):
        return run_pair(*arguments) if died else died.append(True) or (b"", None)

    monkeypatch.setattr(judge_module, "_run_pair", dies_once)
    assert judge("f = 1", "assert f == 1").passed
    assert died


def test_tests_that_end_with_what_the_sample_returned_have_failed():
    verdict = judge("f = 3", "import os\nos._exit(f)")
    assert (verdict.outcome, verdict.detail) == ("failed", "the tests' process ended without a verdict")


@pytest.mark.parametrize("tests", ["", "assert True", "assert ("])
def test_tests_that_test_nothing_are_refused(tests):
    with pytest.raises(UserError, match=r"^tests: expected"):
        run_tests("x = 1", tests)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("level", "docker"),
        ("wall_seconds", 0),
        ("wall_seconds", float("inf")),
        ("memory_mib", 1),
        ("processes", 0),
        ("cpu_seconds", 0.5),
    ],
)
def test_bad_settings_are_refused(setting, value):
    with pytest.raises(UserError, match=f"^{setting}: expected"):
        SandboxSettings(**{setting: value})
