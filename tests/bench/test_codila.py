import json

import pytest
import torch

from dmaxlit import UserError, load
from dmaxlit.bench import CodilaBench
from dmaxlit.bench.codila import CODILA_TASKS, codila_rows, decode_in_turn, format_tables
from dmaxlit.decoding import make_decoder
from dmaxlit.evaluation.evaluate import evaluate
from dmaxlit.files import write_json
from tests.backbone.test_auxiliary import make_module
from tests.test_configs import FOLDER as CONFIGS

SETTINGS = {"span_length": 4, "steps": 1, "base_steps": 1, "num_examples": 2, "repeats": 1}


def bench(output, **settings):
    return CodilaBench(output, CONFIGS, **{"tasks": ("chain",), "seeds": (0,), **SETTINGS, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("magic",)}, "tasks: expected some of chain, shuffle, got 'magic'"),
        ({"tasks": ()}, "tasks: expected at least one, got none"),
        ({"seeds": ()}, "seeds: expected at least one, got none"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"span_length": 3}, "span_length: expected 2, 4 or 8, got 3"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        bench(tmp_path, **settings)


def test_a_folder_without_the_recipes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"configs: expected a folder with pretrain\.yaml"):
        CodilaBench(tmp_path, tmp_path, ("chain",), (0,), **SETTINGS)


def test_every_row_decodes_at_settings_its_decoder_takes():
    rows = codila_rows("chain", 4)
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        make_decoder(row.decoder, **row.options)


def test_rows_are_decoded_in_turn_on_one_thread_and_the_least_time_counts(monkeypatch, two_threads):
    module = make_module(sharpen=6.0).eval()
    module.set_task("chain", {"operations": 3})
    examples = module.task().examples("test", 3)
    rows = [row for row in codila_rows("chain", 4) if row.label in ("4 tokens", "codila, static")]
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0, 30.0, 34.0])
    timed, threads, generate = [], set(), module.generate_batch  # what is decoded between two looks at the clock

    def look():
        timed.append([])
        return next(clock)

    def decode(prompts, settings, **arguments):
        if timed:
            timed[-1].append((settings.decoder, len(prompts), settings.max_forwards))
            threads.add(torch.get_num_threads())
        return generate(prompts, settings, **arguments)

    monkeypatch.setattr("dmaxlit.bench.codila.time.process_time", look)
    monkeypatch.setattr(module, "generate_batch", decode)
    results = decode_in_turn(module, rows, examples, 32, 2)
    assert threads == {1}
    assert timed == 2 * [[("threshold", 3, None)], [], [("codila", 3, None)], []]  # no warm-up among it
    assert [result["process_seconds"] for result in results] == [3.0, 2.0]
    for row, result in zip(rows, results, strict=True):
        expected = evaluate(module, examples, row.decoder, row.options, max_new_tokens=32)
        assert (result["row"], result["accuracy"], result["tpf"]) == (row.key, expected.accuracy, expected.tpf)


def stored_run(task, seed, seconds):
    """Return what a job of the benchmark stores, with figures that are easy to divide."""
    figures = ("accuracy", "tpf", "tpf_ceiling", "tpf_ceiling_two", "tokens_per_second", "finished")
    rows = [
        {
            **dict.fromkeys(figures, 0.5),
            **{"row": row.key, "number": seed, "num_examples": 2},
            **{"forwards_per_answer": 2.0 if row.decoder == "codila" else 4.0},
            **{"process_seconds": seconds if row.decoder == "codila" else 10.0},
        }
        for row in codila_rows(task, 4)
    ]
    nats = {"independent": 2.0, "auxiliary": 1.0 + seed, "sequential": 0.5}
    return {"task": task, "seed": seed, "nats": {"1": nats, "0.5": nats}, "rows": rows}


def test_what_is_done_is_not_done_again_and_the_tables_are_written(tmp_path):
    (tmp_path / "runs").mkdir()
    for seed, seconds in ((0, 10.0), (1, 20.0)):
        for task in CODILA_TASKS:
            write_json(tmp_path / "runs" / f"{task}-{seed}.json", stored_run(task, seed, seconds))
    table = bench(tmp_path, tasks=tuple(CODILA_TASKS), seeds=(0, 1)).run()
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table + "\n"
    assert table == format_tables(json.loads((tmp_path / "results.json").read_text()))
    assert "| chain / codila, static | 1.50 | 3.00 |" in table
    assert "| shuffle / 4 tokens | 1.00 | 1.00 |" in table
    assert "| shuffle, 50% | 2.000 | 1.500 | 0.500 |" in table
    assert bench(tmp_path, tasks=tuple(CODILA_TASKS), seeds=(0, 1)).run() == table
    fewer = bench(tmp_path, seeds=(1,)).run()
    assert "| chain / codila, static | 2.00 | 4.00 |" in fewer
    assert "shuffle" not in fewer
    with pytest.raises(UserError, match="steps: expected 1, as in the results"):
        bench(tmp_path, steps=2).run()


def test_a_run_that_lacks_a_row_is_taken_again(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    kept = stored_run("chain", 0, 10.0)
    write_json(tmp_path / "runs" / "chain-0.json", {**kept, "rows": kept["rows"][:-1]})
    monkeypatch.setattr(CodilaBench, "_measure", lambda self, task, seed: stored_run(task, seed, 30.0))
    for _ in range(2):
        assert "| chain / codila, static | 3.00 | 6.00 |" in bench(tmp_path).run()


@pytest.mark.slow
def test_models_of_both_tasks_are_trained_and_tabulated(tmp_path, fits_in_process):
    both = bench(tmp_path, tasks=tuple(CODILA_TASKS))
    table = both.run()
    assert len(table.splitlines()) == 2 * (2 + 18) + 2 + 4 + 2
    shuffle = load(tmp_path / "shuffle-0" / "model")
    assert shuffle.backbone.auxiliary.span_length == 4
    assert shuffle.task().kind == "shuffle"
    assert both.run() == table
