import math
import statistics

import pytest

from dmaxlit.bench.rows import METHODS, ROWS
from dmaxlit.bench.summary import Spread, format_summary, summarize
from dmaxlit.decoding import make_decoder

FIGURES = {
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
    summary = summarize(some)
    assert [entry["row"] for entry in summary] == ["base / threshold 0.95", "on_policy / SPD 0"]
    assert summary[1]["accuracy"]["mean"] == pytest.approx(0.95)
    table = format_summary(summary).splitlines()
    assert len(table) == 4
    assert "| 95.0 ± 7.1 | 2.00 ± 0.00 | 22.0 / 11.0 |" in table[3]


def test_every_row_names_a_decoder_that_exists_with_options_it_takes():
    assert {row.method for row in ROWS} == {"base", *METHODS}
    assert len({row.key for row in ROWS}) == len(ROWS)
    for row in ROWS:
        make_decoder(row.decoder, **row.options)
