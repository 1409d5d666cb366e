"""Options of decoders and tasks, against the annotations of their constructors."""

from typing import TYPE_CHECKING, Any, Literal

import pytest

from dmaxlit import UserError
from dmaxlit.option_types import check_option_types, missing_options
from dmaxlit.tasks import TASKS, task

if TYPE_CHECKING:
    from collections.abc import Sequence


class Options:
    def __init__(
        self,
        count: int = 1,
        rate: float | None = None,
        mode: Literal["a", "b"] = "a",
        names: dict[str, str] | None = None,
        anything: Any = None,
    ) -> None:
        pass


class OptionsForTypeCheckers:
    def __init__(self, names: "Sequence[str]" = ()) -> None:
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"count": 2},
        {"rate": 1},
        {"rate": None},
        {"rate": 1e30},
        {"count": 2**63 - 1},
        {"count": -(2**63)},
        {"mode": "b"},
        {"names": {"a": "b"}},
        {"anything": []},
    ],
)
def test_values_of_the_type_pass(options):
    check_option_types(Options, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1.5}, "count: expected int, got 1.5"),
        ({"count": True}, "count: expected int, got True"),
        ({"count": None}, "count: expected int, got None"),
        ({"count": 2**63}, "count: expected int, got a number beyond 64 bits"),
        ({"count": -(10**30)}, "count: expected int, got a number beyond 64 bits"),
        ({"rate": 10**30}, "rate: expected float or none, got a number beyond 64 bits"),
        ({"rate": 2**20000}, "rate: expected float or none, got a number beyond 64 bits"),
        ({"rate": float("nan")}, "rate: expected float or none, got nan"),
        ({"rate": "1"}, "rate: expected float or none, got '1'"),
        ({"mode": ["a"]}, "mode: expected 'a' or 'b', got ['a']"),
        ({"names": {"a": 1}}, "names: expected a mapping from str to str or none, got {'a': 1}"),
        ({"names": ["a"]}, "names: expected a mapping from str to str or none, got ['a']"),
    ],
)
def test_others_are_refused(options, message):
    with pytest.raises(UserError) as refusal:
        check_option_types(Options, options)
    assert str(refusal.value) == message


def test_options_without_a_default_are_needed_and_those_passed_on_are_not():
    class Needy:
        def __init__(self, first, second, third=None, *rest, **more) -> None:
            pass

    assert missing_options(Needy, {"first": 1}) == ["second"]
    assert missing_options(Options, {}) == []


def test_annotations_that_only_type_checkers_can_read_are_left_to_the_class():
    check_option_types(OptionsForTypeCheckers, {"names": 1})


@pytest.mark.parametrize("name", list(TASKS))
def test_every_option_of_a_task_is_checked(name):
    required = {"reasoning_gym": {"dataset": "chain_sum"}}.get(name, {})
    for option in task_options(name):
        with pytest.raises(UserError, match=f"^{option}: expected "):
            task(name, **{**required, option: object()})


def task_options(name):
    return TASKS.get(name).__init__.__annotations__.keys() - {"return"}
