"""Which responses are dropped, and for which reason."""

from typing import Any

import pytest

from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.data.row_filter import RowFilter
from dmaxlit.errors import UserError

LONG = " ".join(f"w{number}" for number in range(200))


def record(response: str | None = "yes", **changes: Any) -> dict[str, Any]:
    row = None if response is None else {"prompt": "p", "response": response}
    return {"finished": True, "correct": True, "num_tokens": 5, "row": row} | changes


def reasons(settings: DistillSettings, *records: dict[str, Any]) -> list[str | None]:
    row_filter = RowFilter(settings)
    return [row_filter.reason(record) for record in records]


@pytest.mark.parametrize(("keep", "expected"), [
    ("all", [None, None, None, "empty"]),
    ("finished", [None, "unfinished", None, "empty"]),
    ("correct", [None, "unfinished", "incorrect", "empty"]),
])  # fmt: skip
def test_finished_and_correct(keep: Any, expected: list[str | None]) -> None:
    records = record(), record(finished=False, correct=False), record(correct=False), record(None)
    assert reasons(DistillSettings(keep=keep), *records) == expected


def test_bounds_of_the_length_are_part_of_it() -> None:
    settings = DistillSettings(min_length=3, max_length=5)
    records = [record(num_tokens=length) for length in (2, 3, 5, 6)]
    assert reasons(settings, *records) == ["too_short", None, None, "too_long"]


def test_duplicates_differ_in_case_and_white_space_alone() -> None:
    records = [record("Yes, it is."), record(" yes,  IT\nis. "), record("Yes it is."), record("Yes, it is.")]
    assert reasons(DistillSettings(), *records) == [None] * 4
    assert reasons(DistillSettings(duplicates="drop"), *records) == [None, "duplicate", None, "duplicate"]


def test_near_duplicates() -> None:
    records = [record(LONG), record(LONG.replace("w40", "other")), record(LONG.upper()), record("short")]
    expected = [None, "near_duplicate", "duplicate", None]
    assert reasons(DistillSettings(duplicates="drop_near"), *records) == expected
    other = record(" ".join(LONG.split()[60:]))  # 136 of 196 runs
    assert reasons(DistillSettings(duplicates="drop_near", similarity=0.95), records[0], other) == [None, None]
    assert reasons(DistillSettings(duplicates="drop_near", similarity=0.3), records[0], other)[1] == "near_duplicate"


def test_what_is_dropped_for_another_reason_is_nobodys_duplicate() -> None:
    records = [record("a", finished=False), record("a"), record("a")]
    assert reasons(DistillSettings(duplicates="drop"), *records) == ["unfinished", None, "duplicate"]


def test_the_prompt_is_part_of_a_row() -> None:
    records = [record(), record(row={"prompt": "q", "response": "yes"})]
    assert reasons(DistillSettings(duplicates="drop"), *records) == [None, None]


def test_conversations_are_compared_turn_by_turn() -> None:
    def chat(*turns: tuple[str, str]) -> dict[str, Any]:
        return record(row={"messages": [{"role": role, "content": content} for role, content in turns]})

    first = chat(("user", "a"), ("assistant", "b"))
    other = chat(("system", "a"), ("assistant", "b"))
    assert reasons(DistillSettings(duplicates="drop"), first, other, first) == [None, None, "duplicate"]


def test_other_tools_or_calls_make_another_row() -> None:
    def chat(tool: str, call: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"function": {"name": call}}]}]
        return record(row={"messages": turns, "tools": [{"function": {"name": tool}}]})

    records = [chat("add", "add"), chat("sum", "add"), chat("add", "sum"), chat("add", "add")]
    assert reasons(DistillSettings(duplicates="drop"), *records) == [None, None, None, "duplicate"]


def test_rows_of_an_earlier_run_count() -> None:
    row_filter = RowFilter(DistillSettings(duplicates="drop"))
    row_filter.add({"prompt": "p", "response": "yes"})
    assert row_filter.reason(record()) == "duplicate"


def test_only_reasons_that_may_apply_are_listed() -> None:
    assert RowFilter(DistillSettings(keep="all")).reasons == ["empty"]
    settings = DistillSettings(keep="correct", min_length=1, max_length=9, duplicates="drop_near")
    expected = ["unfinished", "incorrect", "empty", "too_short", "too_long", "duplicate", "near_duplicate"]
    assert RowFilter(settings).reasons == expected


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"num_samples": 0}, "num_samples: expected at least 1"),
        ({"num_samples": 2}, "num_samples: expected 1 at temperature 0, where all are alike, got 2"),
        ({"held_out": 1.0}, "held_out: expected a share from 0 and below 1, got 1.0"),
        ({"held_out": float("nan")}, "held_out: expected a share"),
        ({"min_length": 0}, "min_length: expected at least 1"),
        ({"min_length": 5, "max_length": 4}, "min_length: expected at most max_length, 4, got 5"),
        ({"min_length": 5, "max_new_tokens": 4}, "min_length: expected at most max_new_tokens, 4, got 5"),
        ({"duplicates": "near"}, "duplicates: expected 'keep', 'drop' or 'drop_near', got 'near'"),
        ({"duplicates": "drop_near", "similarity": 0}, "similarity: expected a share from 0.1 to 0.95, got 0"),
        ({"similarity": 0.5}, "similarity: expected none without drop_near as duplicates, got 0.5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        DistillSettings(**settings).check()
