import pytest

from dmaxlit.bench.paired_table import format_pairs, format_training, summarize_pairs
from dmaxlit.evaluation.evaluate import DecoderSpec
from dmaxlit.metrics import accuracy_under_parallelism, wilson_interval

SLOW = DecoderSpec("spd", {"tau_dec": 0.5}, "SPD 0.5")
WIDE = DecoderSpec("spd", {"tau_dec": 0.0}, "wide", window=2)
FAST = DecoderSpec("spd", {"tau_dec": 0.0}, "SPD 0")
ROWS = [(method, spec) for method in ("base", "on_policy", "multi_block") for spec in (SLOW, FAST, WIDE)]


def run(correct, tokens, forwards, extra_blocks=0, speed=1.0):
    return {
        "correct": correct,
        "finished": [True] * len(correct),
        "tokens": tokens,
        "forwards": forwards,
        "extra_blocks": [extra_blocks] * len(correct),
        "speed": {"1": speed, "16": speed / 2},
    }


RESULTS = {
    ("on_policy", "SPD 0"): {
        0: run([True, True, False, True], [10, 10, 10, 30], [5, 5, 5, 5]),
        1: run([True, True, True, True], [10, 10, 10, 10], [5, 5, 5, 5]),
    },
    ("on_policy", "SPD 0.5"): {seed: run([True] * 4, [10] * 4, [10] * 4) for seed in (0, 1)},
    ("multi_block", "wide"): {
        0: run([True, False, True, True], [10, 10, 10, 30], [5, 4, 3, 3], 2, 1.5),
        1: run([True, True, False, True], [10, 10, 10, 10], [5, 4, 3, 3], 4, 1.7),
    },
    ("base", "SPD 0"): {0: run([False] * 4, [10] * 4, [20] * 4)},
}


@pytest.fixture(scope="module")
def summary():
    reference = RESULTS["on_policy", "SPD 0"]
    return {(row["method"], row["decoder"]): row for row in summarize_pairs(RESULTS, ROWS, reference)}


def test_rows_are_in_the_order_of_the_study_and_absent_ones_left_out(summary):
    order = [("base", "SPD 0"), ("on_policy", "SPD 0.5"), ("on_policy", "SPD 0"), ("multi_block", "wide")]
    assert list(summary) == order


def test_a_row_is_compared_with_the_reference_prompt_by_prompt(summary):
    row = summary["multi_block", "wide"]
    # It loses prompt 1 of the first seed and prompt 2 of the second, and gains prompt 2 of the first.
    assert (row["difference"]["only_a"], row["difference"]["only_b"]) == (1, 0)
    assert row["difference"]["difference"] == -1 / 8
    assert row["difference"]["p_value"] == 1
    assert row["ratio"]["ratio"] == pytest.approx((100 / 30) / (100 / 40))
    assert row["ratio"]["low"] <= row["ratio"]["ratio"] <= row["ratio"]["high"]


def test_a_row_of_one_seed_is_compared_with_the_reference_of_that_seed(summary):
    assert summary["base", "SPD 0"]["difference"]["only_a"] == 3
    assert summary["base", "SPD 0"]["ratio"]["ratio"] == pytest.approx((40 / 80) / (60 / 20))


def test_the_same_run_under_several_seeds_is_no_further_evidence():
    reference = run([True] * 29 + [False] * 3, list(range(10, 42)), [5] * 32)
    row = run([True] * 32, list(range(12, 44)), [4, 6] * 16)

    def compared(seeds):
        results = {("on_policy", SLOW.title): dict.fromkeys(seeds, row)}
        (summary,) = summarize_pairs(results, [("on_policy", SLOW)], dict.fromkeys(seeds, reference))
        return summary

    one, three = compared([0]), compared([0, 1, 2])
    assert one["difference"]["p_value"] == 0.25
    assert three["difference"] == pytest.approx(one["difference"])
    assert three["ratio"] == pytest.approx(one["ratio"])


def test_figures_are_means_over_the_seeds(summary):
    row = summary["multi_block", "wide"]
    assert (row["seeds"], row["accuracy"]["mean"]) == (2, 0.75)
    assert row["interval"] == wilson_interval(3, 4)  # the two seeds are equally right
    assert summary["on_policy", "SPD 0"]["interval"] is None
    assert row["tpf"]["mean"] == pytest.approx((60 / 15 + 40 / 15) / 2)
    assert row["tpf_by"]["dmaxlit"] == pytest.approx(row["tpf"]["mean"])
    assert row["tpf_by"]["without_eos"] == pytest.approx((56 / 15 + 36 / 15) / 2)
    published = [(9 / 6 + 9 / 5 + 9 / 4 + last / 4) / 4 for last in (29, 9)]
    assert row["tpf_by"]["published"] == pytest.approx(sum(published) / 2)
    assert (row["forwards"]["mean"], row["extra_blocks"]["mean"]) == (15 / 4, 3)
    assert (row["speed"]["1"]["mean"], row["speed"]["16"]["mean"]) == (pytest.approx(1.6), pytest.approx(0.8))


def test_the_first_row_of_a_curve_has_its_aup(summary):
    points = [(1.0, 100.0), (2.5, 87.5)]
    assert summary["on_policy", "SPD 0.5"]["aup"] == pytest.approx(accuracy_under_parallelism(points, 100.0, floor=5))
    assert summary["on_policy", "SPD 0"]["aup"] is None
    assert summary["multi_block", "wide"]["aup"] == pytest.approx(
        accuracy_under_parallelism([((4 + 8 / 3) / 2, 75.0)], 100.0)
    )


def test_the_table_has_the_figures(summary):
    header, rule, *lines = format_pairs(summary.values(), "DMax").splitlines()
    assert header.count("|") == rule.count("|") == lines[0].count("|")
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    low, high = wilson_interval(3, 4)
    assert cells[:3] == ["multi_block / wide", "2", f"75.0 [{100 * low:.1f}, {100 * high:.1f}]"]
    assert cells[3].startswith("-12.5 [")
    assert cells[4:6] == ["1", "3.33 ± 0.94"]
    assert cells[8].startswith("1.33 [")
    assert cells[9:11] == ["3.8", "3.0"]
    assert cells[12:] == ["1.60", "0.80"]
    assert lines[-2].startswith("| on_policy / SPD 0 | 2 | 87.5 | +0.0 [")


def test_the_table_of_training_has_means_over_the_seeds():
    models = [{"method": "on_policy", "seed": seed, "cpu_seconds": seconds} for seed, seconds in enumerate((60, 180))]
    models.append({"method": "multi_block", "seed": 0, "cpu_seconds": None})
    assert format_training(models[-1:]) == ""
    assert format_training(models).splitlines()[0] == "| model | seeds | CPU minutes, from the base on |"
    assert format_training(models).splitlines()[-1] == "| on_policy | 2 | 2.0 ± 1.4 |"
