"""The benchmark of the server: its table is made of what it wrote, and what it refuses."""

import contextlib
import itertools
import json
from types import SimpleNamespace

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.bench import serve_load
from dmaxlit.bench.serve_load import Load, ServeBench, Throughput, format_table
from dmaxlit.server import Limits
from tests.server.running import running


class Served:
    """A server in this process that uses three seconds between two looks at them."""

    resident_mib, exit_status = 10.0, None

    def __init__(self, url):
        self.url, self._seconds = url, itertools.count(0.0, 3.0)

    @property
    def cpu_seconds(self):
        return next(self._seconds)

    def stop(self):
        return 0


@pytest.fixture
def in_process(monkeypatch):
    """Serve in this process instead of one of its own, and note the options."""
    options = []

    @contextlib.contextmanager
    def served(*given):
        options.extend(given)
        with running(dmaxlit.load("builtin:chain-base", probe=False), Limits(max_body=50_000)) as server:
            yield Served(f"{server.url}/v1")

    monkeypatch.setattr(serve_load, "served", served)
    monkeypatch.setattr(serve_load, "_WARM_UP", 0.0)
    monkeypatch.setattr(serve_load, "_NUM_CASES", 2)
    return options


def test_a_run_writes_table_and_json(tmp_path, in_process):
    table = ServeBench(tmp_path / "out", clients=2, minutes=0.01, num_prompts=2, repeats=1).run()
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == table + "\n"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (load,), (speed,) = results["load"], results["speed"]
    assert format_table([Load(**load)], [Throughput(**speed)]) == table
    assert load["whole"] > 0
    assert load["wrong"] == load["swapped"] == load["lost"] == load["left_running"] == load["exit_status"] == 0
    assert speed["ratio"] == pytest.approx(speed["server_tokens_per_second"] / speed["generate_tokens_per_second"])
    assert in_process[:2] == ["--model", "builtin:chain-base"]
    assert in_process[in_process.index("--batch_size") + 1] == "2"


def test_both_ratios_are_those_of_the_server_to_generate(tmp_path, in_process, monkeypatch):
    seconds = itertools.count(0.0, 2.0)
    monkeypatch.setattr("dmaxlit.bench.serve_load.time.process_time", lambda: next(seconds))
    table = ServeBench(tmp_path / "out", clients=2, minutes=0, num_prompts=2, repeats=1).run()
    assert table.splitlines()[-1].split(" | ")[4] == "1.50"


def test_a_server_that_dies_under_load_is_reported_with_what_was_counted(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(Served, "exit_status", -9)
    counted = r"\d+ whole, \d+ streamed, \d+ aborted, \d+ malformed, 0 wrong, 0 swapped, 0 lost"
    with pytest.raises(UserError, match=f"serve: expected a server that lasts, got exit status -9 after {counted}"):
        ServeBench(tmp_path / "out", clients=2, minutes=5, num_prompts=2, repeats=1).run()


def test_other_tokens_of_the_server_are_counted_and_lose_no_results(tmp_path, in_process, monkeypatch):
    genuine = serve_load.ask_all

    async def ask_all(*args):
        return await genuine(*args) + 3

    monkeypatch.setattr(serve_load, "ask_all", ask_all)
    table = ServeBench(tmp_path / "out", clients=2, minutes=0, num_prompts=2, repeats=1).run()
    assert table.splitlines()[-1].endswith("| 3 |")
    (speed,) = json.loads((tmp_path / "out" / "results.json").read_text())["speed"]
    assert speed["more_tokens"] == 3


def test_a_decoder_that_cannot_be_used_is_refused_before_the_server_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(serve_load, "served", lambda *args: pytest.fail("started"))
    for decoder in ("nosuch", "tests.engine.scripted.Scripted"):
        with pytest.raises(UserError, match=f"decoder: expected a registered one (.*), got '{decoder}'"):
            ServeBench(tmp_path / "out", decoder=decoder)
    with pytest.raises(UserError, match="decoder codila: expected a model with an auxiliary model"):
        ServeBench(tmp_path / "out", decoder="codila").run()


def test_the_table_has_the_median_of_the_comparisons():
    speed = [Throughput(100, 90, 0.9, 1.0), Throughput(200, 100, 0.5, 0.7), Throughput(120, 114, 0.95, 0.8, 2)]
    lines = format_table(
        [Load(32, 180, whole=5, rss_start=1, rss_end=2, rss_peak=3, exit_status=0)], speed
    ).splitlines()
    assert lines[2] == "| 32 | 3 | 5 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1 / 2 / 3 | 0 |"
    assert lines[-3:] == [
        "| median | 120 | 100 | 0.90 | 0.80 | 0 |",
        "| least | 100 | 90 | 0.50 | 0.70 | 0 |",
        "| most | 200 | 114 | 0.95 | 1.00 | 2 |",
    ]


def test_settings_out_of_range_and_models_without_a_task_are_refused(tmp_path, monkeypatch):
    for name in ("clients", "num_prompts", "repeats"):
        with pytest.raises(UserError, match=f"{name}: expected at least 1, got 0"):
            ServeBench(tmp_path, **{name: 0})
    with pytest.raises(UserError, match="device: expected one that torch can compute on, got 'cube'"):
        ServeBench(tmp_path, device="cube")
    with pytest.raises(UserError, match="minutes: expected at least 0, got -1"):
        ServeBench(tmp_path, minutes=-1)
    monkeypatch.setattr(serve_load, "load", lambda *args, **named: SimpleNamespace(task=lambda: None))
    with pytest.raises(UserError, match="model: expected one that was trained on a task, got 'builtin:chain-base'"):
        ServeBench(tmp_path / "out").run()
