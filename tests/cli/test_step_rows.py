from types import SimpleNamespace

import pytest

from dmaxlit.cli.step_rows import (
    BATCH_ROWS,
    STEP_BATCHES,
    STEP_ROWS,
    current_step_rows,
    step_batches,
    step_rows,
    with_as_many_rows,
)

ACCUMULATE = "trainer.accumulate_grad_batches"


def test_settings_of_earlier_versions_are_read_as_rows_of_a_step():
    stored = {BATCH_ROWS: 8, ACCUMULATE: 4, "trainer.limit_train_batches": None, "trainer.precision": "32"}
    current = {STEP_ROWS: 32, "trainer.limit_train_batches": None, "trainer.precision": "32"}
    assert current_step_rows(stored) == current
    assert current_step_rows(current) == current
    for fixing in ({"trainer.limit_train_batches": 3}, {"data.group_by_length": True}):
        assert current_step_rows({**stored, **fixing})[BATCH_ROWS] == 8
    damaged = {BATCH_ROWS: "8", ACCUMULATE: 4}
    assert current_step_rows(damaged) == damaged


@pytest.mark.parametrize(
    ("limits", "fixed"),
    [
        ({}, False),
        ({"limit_train_batches": 1.0, "overfit_batches": 0.0}, False),
        ({"limit_train_batches": 0.5}, True),
        ({"limit_train_batches": 2}, True),
        ({"overfit_batches": 1}, True),
        ({"overfit_batches": 0.1}, True),
    ],
)
def test_rows_of_a_batch_count_where_some_batches_are_used_or_rows_are_grouped(limits, fixed):
    both = {STEP_ROWS: 16, BATCH_ROWS: 8}
    assert step_rows(8, 2, limits) == (both if fixed else {STEP_ROWS: 16})
    assert step_rows(8, 2, limits, group_by_length=True) == both


@pytest.mark.parametrize(
    ("rows", "ranks", "batch_size", "accumulate", "advice"),
    [
        (32, 2, 4, 1, "--trainer.accumulate_grad_batches 4 to go on, "),
        (32, 8, 8, 1, "--data.batch_size 4 --trainer.accumulate_grad_batches 1 to go on, "),
        (32, 3, 4, 1, ""),
    ],
)
def test_the_options_that_give_a_step_its_rows(rows, ranks, batch_size, accumulate, advice):
    trainer = SimpleNamespace(world_size=ranks, accumulate_grad_batches=accumulate)
    current = {STEP_ROWS: ranks * batch_size * accumulate}
    assert with_as_many_rows(STEP_ROWS, {STEP_ROWS: rows}, current, trainer) == advice
    assert with_as_many_rows("model.lora", {STEP_ROWS: rows}, current, trainer) == ""


@pytest.mark.parametrize("name", [STEP_ROWS, BATCH_ROWS])
@pytest.mark.parametrize(
    ("ranks", "advice"),
    [(2, "--data.batch_size 4 --trainer.accumulate_grad_batches 4 to go on, "), (16, "")],
)
def test_the_options_that_give_a_micro_batch_its_rows_too(name, ranks, advice):
    trainer = SimpleNamespace(world_size=ranks, accumulate_grad_batches=1)
    stored, current = {STEP_ROWS: 32, BATCH_ROWS: 8}, {STEP_ROWS: 16, BATCH_ROWS: 16}
    assert with_as_many_rows(name, stored, current, trainer) == advice


def test_batches_of_max_tokens_count_instead_of_rows():
    most = {STEP_BATCHES: 6, "most rows of a micro-batch": 32}
    assert step_batches(32, 2, 3, {}) == step_batches(32, 3, 2, {"limit_train_batches": 1.0}) == most
    for limit in (4, 0.5):
        assert step_batches(32, 2, 3, {"limit_train_batches": limit}) == {**most, "number of ranks": 2}
    for ranks, advice in [(2, "--trainer.accumulate_grad_batches 3 to go on, "), (4, "")]:
        trainer = SimpleNamespace(world_size=ranks, accumulate_grad_batches=1)
        assert with_as_many_rows(STEP_BATCHES, most, {STEP_BATCHES: ranks}, trainer) == advice
