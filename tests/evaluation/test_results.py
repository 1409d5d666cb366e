import json
import math

import pytest

from dmaxlit.evaluation.results import DecodeResult, format_table
from dmaxlit.metrics import wilson_interval


def make(**changes):
    values = {
        "decoder": "spd",
        "options": {"tau_dec": 0.5},
        "num_examples": 200,
        "accuracy": 0.985,
        "tpf": 4.625,
        "tpf_published": 4.4,
        "tpf_ceiling": 22.3,
        "forwards_per_answer": 14.5,
        "tokens_per_second": 1234.5,
        "finished": 1.0,
        "blocks_at_step_limit": 3,
        "blocks": 600,
        "seconds": 10.9,
    }
    return DecodeResult(**{**values, **changes})


def test_interval_and_rates():
    result = make()
    assert result.accuracy_interval() == wilson_interval(197, 200)
    assert result.tpf_ceiling_two == 11.15
    assert result.hit_step_limit == 0.005


def test_json_round_trip():
    result = make(tokens_per_second=math.nan)
    payload = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert payload["tokens_per_second"] is None
    assert (payload["accuracy_low"], payload["accuracy_high"]) == wilson_interval(197, 200)
    again = DecodeResult.from_dict(payload)
    assert math.isnan(again.tokens_per_second)
    assert again.to_dict() == result.to_dict()


def test_a_dictionary_of_release_0_1_is_read():
    payload = make().to_dict()
    payload["capped_blocks"] = payload.pop("blocks_at_step_limit")
    assert DecodeResult.from_dict(payload) == make()


def test_nothing_judged_is_no_error():
    empty = make(num_examples=0, accuracy=math.nan, blocks=0)
    assert empty.accuracy_interval() == (0.0, 1.0)
    assert math.isnan(empty.hit_step_limit)
    assert empty.to_dict()["accuracy"] is None


def test_table_is_aligned_markdown():
    table = format_table([("base, threshold 0.95", make()), ("spd", make(accuracy=1.0, tpf=10.0))])
    lines = table.splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert len({tuple(index for index, sign in enumerate(line) if sign == "|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["base, threshold 0.95", "98.5 [95.7, 99.5]", "4.62", "22.3 / 11.2", "14.5", "1234", "100.0", "3"]
    assert set(lines[1]) == set("|-: ")


@pytest.mark.parametrize("rows", [[], [("x", make())]])
def test_table_of_few_rows(rows):
    assert len(format_table(rows).splitlines()) == 2 + len(rows)
