import math
import statistics

import pytest

from dmaxlit.bench.studies import STUDIES
from dmaxlit.bench.summary import Spread, format_summary, summarize
from dmaxlit.decoding import make_decoder
from dmaxlit.metrics import wilson_interval

ROWS = STUDIES["methods"].rows
FIGURES = {
    "num_examples": 1000,
    "tpf": 2.0,
    "tpf_ceiling": 22.0,
    "tpf_ceiling_two": 11.0,
    "forwards_per_answer": 33.0,
    "tokens_per_second": 100.0,
    "finished": 1.0,
}


def runs(row, accuracies):
    return [{"row": row, "accuracy": accuracy, **FIGURES} for accuracy in accuracies]


def test_a_spread_is_mean_deviation_and_t_interval():
    values = [0.9, 0.95, 0.97, 0.93, 1.0]
    spread = Spread.of(values)
    assert spread.mean == pytest.approx(statistics.fmean(values))
    assert (spread.low, spread.high, spread.seeds) == (0.9, 1.0, 5)
    # t(0.975, 4 degrees of freedom) = 2.776
    assert spread.half_width == pytest.approx(2.776 * statistics.stdev(values) / math.sqrt(5))
    assert math.isnan(Spread.of([0.5]).half_width)


def test_rows_keep_the_tables_order_and_absent_ones_are_left_out():
    some = runs("on_policy / SPD 0", [0.9, 1.0]) + runs("base / threshold 0.95", [0.99])
    summary = summarize(some, ROWS)
    assert [entry["row"] for entry in summary] == ["base / threshold 0.95", "on_policy / SPD 0"]
    assert summary[1]["accuracy"]["mean"] == pytest.approx(0.95)
    table = format_summary(summary).splitlines()
    assert len(table) == 4
    low, high = wilson_interval(990, 1000)
    assert f"| 1 | 99.0 ± 0.0 | {100 * low:.1f} to {100 * high:.1f} | 2.00 ± 0.00 | 22.0 / 11.0 |" in table[2]
    assert "| 2 | 95.0 ± 7.1 |  | 2.00 ± 0.00 | 22.0 / 11.0 |" in table[3]


def test_the_interval_is_over_seeds_from_three_on():
    (two,) = summarize(runs("on_policy / SPD 0", [0.9, 1.0]), ROWS)
    assert two["interval"] is None
    (three,) = summarize(runs("on_policy / SPD 0", [0.9, 0.92, 0.91]), ROWS)
    half = 4.303 * 0.01 / math.sqrt(3)
    assert three["interval"] == pytest.approx((0.91 - half, 0.91 + half))
    (sure,) = summarize(runs("on_policy / SPD 0", [1.0, 1.0, 0.98]), ROWS)
    assert sure["interval"][1] == 1.0


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_interval_of_seeds_that_agree_is_over_the_prompts_of_one(seeds):
    (row,) = summarize(runs("on_policy / SPD 0", [1.0] * seeds), ROWS)
    assert row["interval"] == wilson_interval(1000, 1000)
    assert row["interval"][0] < 1.0


@pytest.mark.parametrize("study", STUDIES)
def test_every_row_names_a_decoder_that_exists_with_options_it_takes(study):
    methods, rows = STUDIES[study].methods, STUDIES[study].rows
    assert {row.method for row in rows} - {"base"} == set(methods)
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        make_decoder(row.decoder, **row.options)
