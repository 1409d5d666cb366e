import random
from types import SimpleNamespace

import pytest

from dmaxlit.evaluation.cell_result import CellResult, count_sums, decode_result, ends_with_eos, tpf_by_rule
from dmaxlit.evaluation.evaluate import DecoderSpec, summarize
from dmaxlit.evaluation.report import aup_of, results_table
from dmaxlit.metrics import DecodeMeter, accuracy_under_parallelism


def make_rows(seed, n=17):
    drawn = random.Random(seed)
    rows = []
    for _ in range(n):
        row = {
            "num_tokens": drawn.randint(1, 40),
            "num_forwards": drawn.randint(1, 30),
            "num_prompt_tokens": drawn.randint(0, 20),
            "hit_step_limit": drawn.randint(0, 1),
            "finished": drawn.random() < 0.7,
            "correct": drawn.random() < 0.5,
        }
        if row["finished"] and drawn.random() < 0.3:
            row["stopped"] = True
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_a_plain_loop(seed):
    rows = make_rows(seed)
    tokens = forwards = eos = blocks = right = ended = 0
    published = 0.0
    for row in rows:
        has_eos = row["finished"] and "stopped" not in row
        tokens, forwards, eos = tokens + row["num_tokens"], forwards + row["num_forwards"], eos + has_eos
        published += (row["num_tokens"] - has_eos) / (row["num_forwards"] + 1)
        begin = row["num_prompt_tokens"]
        blocks += len({position // 8 for position in range(begin, begin + row["num_tokens"])})
        right, ended = right + row["correct"], ended + row["finished"]
    result = decode_result(rows, "spd", {"tau_dec": 0.5}, block_length=8, seconds=2.5)
    assert (result.decoder, result.options, result.num_examples) == ("spd", {"tau_dec": 0.5}, 17)
    assert result.accuracy == pytest.approx(right / 17)
    assert result.tpf_ceiling == pytest.approx(tokens / blocks)
    assert (result.blocks, result.finished) == (blocks, pytest.approx(ended / 17))
    assert result.forwards_per_answer == pytest.approx(forwards / 17)
    assert result.tokens_per_second == pytest.approx(tokens / 2.5)
    rules = tpf_by_rule(rows, "spd")
    assert rules["dmaxlit"] == result.tpf == pytest.approx(tokens / forwards)
    assert rules["without_eos"] == pytest.approx((tokens - eos) / forwards)
    assert rules["published"] == result.tpf_published == pytest.approx(published / 17)
    sums = count_sums(rows)
    assert (sums["tokens"], sums["eos_tokens"], sums["forwards"], sums["correct"]) == (tokens, eos, forwards, right)
    assert int(ends_with_eos(rows).sum()) == eos


@pytest.mark.parametrize("name", ["autoregressive", "assisted"])
def test_the_prompt_of_an_autoregressive_row_is_charged_once(name):
    rows = make_rows(0)
    published = 0.0
    for row in rows:
        has_eos = row["finished"] and "stopped" not in row
        published += (row["num_tokens"] - has_eos) / row["num_forwards"]
    result = decode_result(rows, name, {}, block_length=8, seconds=2.5)
    assert result.tpf_published == tpf_by_rule(rows, name)["published"] == pytest.approx(published / 17)
    others = {rule: tpf for rule, tpf in tpf_by_rule(rows, "spd").items() if rule != "published"}
    assert others.items() < tpf_by_rule(rows, name).items()


def of_meter(rows):
    meter = DecodeMeter(8)
    for part, seconds in ((rows[:5], 1.0), (rows[5:], 1.5)):
        answers = [SimpleNamespace(**row, ends_with_eos=row["finished"] and "stopped" not in row) for row in part]
        right, prompts = [row["correct"] for row in part], [row["num_prompt_tokens"] for row in part]
        meter.update(answers, right, prompts, seconds)
    return summarize(meter, DecoderSpec("spd", {"tau_dec": 0.5}))


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_rows_are_those_of_a_run_s_meter(seed):
    rows = make_rows(seed)
    of_rows, expected = decode_result(rows, "spd", {"tau_dec": 0.5}, 8, 2.5), of_meter(rows)
    assert (of_rows.decoder, of_rows.options) == (expected.decoder, expected.options)
    figures = {name: value for name, value in vars(expected).items() if name not in ("decoder", "options")}
    assert {name: getattr(of_rows, name) for name in figures} == pytest.approx(figures, rel=1e-12)
    assert of_rows.blocks_at_step_limit == sum(row["hit_step_limit"] for row in rows) > 0
    # One that decodes token by token spends a forward more on each answer, on the prompt.
    more = [row | {"num_forwards": row["num_forwards"] + 1} for row in rows]
    published = decode_result(more, "autoregressive", {}, 8, 2.5).tpf_published
    assert published == pytest.approx(expected.tpf_published, rel=1e-12)


def make_cell(line, threshold, seed, task="chain"):
    rows = make_rows(seed)
    result = decode_result(rows, line, {}, 8, 1.0)
    timing = {"seconds": 1.0, "batch_size": 2, "processes": 1, "resumed": False}
    title = f"{line} {threshold}"
    return CellResult(
        task, title, line, threshold, "x.jsonl", result, tpf_by_rule(rows, line), count_sums(rows), timing
    )


def test_aup_is_discounted_by_the_best_accuracy_of_the_whole_task():
    cells = [make_cell("spd", 0.5, 0), make_cell("spd", 0.0, 1), make_cell("one_token", None, 2)]
    best = max(100 * cell.result.accuracy for cell in cells)
    points = [(cell.result.tpf, 100 * cell.result.accuracy) for cell in cells]
    assert aup_of(cells) == {
        "spd": accuracy_under_parallelism(points[:2], best),
        "one_token": accuracy_under_parallelism(points[2:], best),
    }


def test_tables_keep_tasks_apart_and_name_y_max():
    cells = [make_cell("spd", 0.5, 0), make_cell("spd", 0.5, 1, task="other")]
    table = results_table(cells)
    assert [line for line in table.splitlines() if line.startswith("## ")] == ["## chain", "## other"]
    for cell in cells:
        assert f"17 prompts; AUP with y_max {100 * cell.result.accuracy:.1f}%" in table


def test_no_right_answer_at_all_has_an_aup_of_zero():
    rows = [row | {"correct": False} for row in make_rows(0)]
    cell = CellResult("t", "a", "a", None, "x", decode_result(rows, "a", {}, 8, 1.0), tpf_by_rule(rows, "a"), {}, {})
    assert aup_of([cell]) == {"a": 0.0}
    assert "y_max 0.0%" in results_table([cell])


def test_plain_values_have_each_figure_once():
    values = make_cell("spd", 0.5, 0).to_dict()
    assert values["tpf"]["dmaxlit"] > 0
    assert values["timing"]["tokens_per_second"] == pytest.approx(values["counts"]["tokens"])
    assert not {"tpf_published", "seconds", "tokens_per_second"} & set(values)
