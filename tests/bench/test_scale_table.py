import pytest

from dmaxlit.bench.process_figures import ProcessFigures
from dmaxlit.bench.scale_table import ScaleJob, ScaleRun, format_table, run_of_figures


def test_strong_scaling_divides_the_work_and_weak_scaling_does_not():
    shares = [ScaleJob("fit", "DDP", scaling, 4).share(32) for scaling in ("strong", "weak")]
    assert shares == [8, 32]
    assert ScaleJob("fit", "alone", "", 1).share(32) == 32


def test_a_shared_run_takes_as_long_as_its_slowest_process():
    figures = [ProcessFigures(3.0, 2.0, 60, rest_seconds=0.5), ProcessFigures(4.0, 3.0, 40, rest_seconds=0.25)]
    run = run_of_figures(ScaleJob("distill", "shared", "weak", 2), figures)
    assert run.tokens_per_second == 25  # 100 tokens in 4 s
    assert run.cpu_seconds_per_token == 0.05
    assert run.communication == pytest.approx(1 / 8)  # one of two processes waits for 1 of 4 s
    assert run.rest_seconds == 0.5


def test_separate_runs_do_not_wait_for_each_other():
    figures = [ProcessFigures(3.0, 2.0, 60), ProcessFigures(4.0, 3.0, 40)]
    assert run_of_figures(ScaleJob("distill", "apart", "weak", 2), figures).tokens_per_second == 30


def test_of_training_the_share_of_collectives_is_the_mean_over_processes():
    figures = [ProcessFigures(4.0, 2.0, 60, in_collectives=0.5), ProcessFigures(4.0, 2.0, 60, in_collectives=0.25)]
    assert run_of_figures(ScaleJob("fit", "DDP", "weak", 2), figures).communication == 0.375


@pytest.mark.parametrize("recorded", [True, False])
def test_the_table_has_medians_of_ratios_to_one_process_and_to_separate_runs_of_the_same_turn(recorded):
    # In the second turn the machine was twice as fast, in the third five times.
    runs = [
        ScaleRun("fit", way, scaling, number, rate * speed, cpu, communication, 0.0, turn if recorded else None)
        for way, scaling, number, rate, cpu, communication in [
            ("alone", "", 1, 50.0, 0.001, 0.0),
            ("apart", "weak", 2, 80.0, 0.0011, 0.0),
            ("FSDP2", "weak", 2, 60.0, 0.002, 0.4),
        ]
        for turn, speed in enumerate((1.0, 2.0, 5.0))
    ]
    runs += [
        ScaleRun("fit", "DDP", "weak", 2, rate, 0.0012, 0.1, 0.0, turn if recorded else None)
        for turn, rate in enumerate((72.0, 176.0, 200.0))  # 0.9, 1.1 and 0.5 of the separate runs
    ]
    runs += [ScaleRun("distill", "alone", "", 1, 10.0, 1.0, 0.0, 2.25)]
    assert format_table(runs).splitlines()[2:] == [
        "| distill | 1 | | 10 | 1.00 | | | 1.00 | | | 2.2 |",
        "| fit | 1 | | 100 | 1.00 | | | 1.00 | | |  |",
        "| fit, DDP | 2 | weak | 176 | 0.72 | 0.80 | 0.90 | 1.20 | 1.10 | 10 |  |",
        "| fit, FSDP2 | 2 | weak | 120 | 0.60 | 0.80 | 0.75 | 2.00 | 1.10 | 40 |  |",
    ]
    if recorded:
        assert format_table(runs[::-1]) == format_table(runs)
