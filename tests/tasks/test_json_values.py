import datetime
import json
import math
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest

from dmaxlit.tasks.json_values import MAX_DEPTH, TooDeepError, json_value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, value) for value in (None, True, 3, 2.5, "é", [1, ["a"]], {"a": {"b": [None]}})),
        (math.nan, None),
        ((1, -math.inf), [1, None]),
        ({3: "a"}, {"3": "a"}),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "2026-01-02T03:04:05+00:00"),
        (datetime.time(3, 4), "03:04:00"),
        (datetime.timedelta(hours=1, milliseconds=500), 3600.5),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x00\xff", "AP8="),
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (object(), None),
    ],
)
def test_every_value_has_a_form_that_json_can_express(value, expected):
    result = json_value(value)
    assert result == expected
    assert type(result) is type(expected)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("around", [lambda value: [value], lambda value: {"a": value}])
def test_what_lies_in_more_lists_and_objects_than_the_limit_is_refused(around):
    value = None
    for _ in range(MAX_DEPTH):
        value = around(value)
    assert json_value(value) == value
    with pytest.raises(TooDeepError, match=r"^nested too deeply$"):
        json_value(around(value))


def test_an_array_counts_as_the_lists_it_becomes():
    assert json_value([np.zeros((1, 1))], levels=3) == [[[0.0]]]
    with pytest.raises(TooDeepError):
        json_value([np.zeros((1, 1))], levels=2)
