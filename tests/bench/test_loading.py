import json

import pytest

from dmaxlit.bench import LoadingBench
from dmaxlit.bench.loading import Start, format_table, write_corpus
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask


def test_the_command_writes_table_and_json_and_removes_its_corpora(tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.bench.speed.in_new_process", lambda function, *job: function(*job))
    (tmp_path / "out" / "corpora" / "cache").mkdir(parents=True)  # as a run that was killed leaves it
    table = LoadingBench(tmp_path / "out", sizes=[40, 70], num_proc=1, batch_size=8, batches=3).run()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.json", "table.md"]
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    starts = [Start(**entry) for entry in content["measurements"]]
    assert [(start.rows, start.way) for start in starts] == [
        (rows, way) for rows in (40, 70) for way in ("in memory", "cache, first start", "cache, later start")
    ]
    assert all(start.rows_per_second > 0 and start.setup_seconds > 0 for start in starts)
    assert format_table(starts) == table
    assert "| 40 | in memory |" in table


def test_ratios_are_to_the_start_in_memory_with_as_many_rows():
    starts = [
        Start(rows, way, seconds, 0.5, 1000.0, memory, 3.0)
        for rows, factor in ((1000, 1), (10, 2))
        for way, seconds, memory in (("in memory", 8.0 * factor, 40.0), ("cache, later start", 2.0, 4.0 * factor))
    ]
    lines = format_table(starts).splitlines()
    assert lines[3] == "| 1,000 | cache, later start | 2.00 | 0.25 | 0.500 | 1000 | 4 | 0.10 | 3 |"
    assert lines[5] == "| 10 | cache, later start | 2.00 | 0.12 | 0.500 | 1000 | 8 | 0.20 | 3 |"


def test_rows_are_those_of_the_chain_task_and_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.bench.loading._DISTINCT", 3)
    write_corpus(tmp_path / "c.jsonl", 5)
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    examples = ChainTask().examples("train", 3)
    assert [row["prompt"] for row in rows] == [examples[number % 3].prompt for number in range(5)]
    assert rows[4]["response"] == examples[1].response


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": []}, r"^sizes: expected numbers above batch_size 32, got \[\]$"),
        ({"sizes": [100, 32]}, r"^sizes: expected numbers above batch_size 32, got \[100, 32\]$"),
        ({"num_proc": 0}, "^num_proc: expected at least 1, got 0$"),
        ({"batches": 0}, "^batches: expected at least 1, got 0$"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        LoadingBench(tmp_path, **options)
