import json

import pytest

from dmaxlit import UserError
from dmaxlit.bench import DecodeSpeedBench
from dmaxlit.bench.decode_speed import format_table
from dmaxlit.bench.loops import cached_loop, naive_loop
from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder
from tests.engine.models import lively_denoiser, make_prompts


@pytest.mark.parametrize("count", [1, 3])
def test_the_loops_and_the_engine_write_the_same_tokens(count):
    denoiser = lively_denoiser()
    prompts = [p for p in make_prompts((3, 8, 25, 17, 7)) if denoiser.special.mask_id not in p]
    engine = BlockDecoder(denoiser, ThresholdDecoder(0.0, max_tokens=count)).decode(prompts, 20)
    for prompt, row in zip(prompts, engine, strict=True):
        cached = cached_loop(denoiser, prompt, 20, count)
        assert cached == naive_loop(denoiser, prompt, 20, count)
        assert cached[: row.num_tokens] == row.token_ids


def test_a_small_run_measures_everyone_and_all_agree(tmp_path):
    bench = DecodeSpeedBench(
        tmp_path, (1, 2), (16, 40), hidden_size=32, layers=1, vocab_size=100, block_length=8, tokens_per_step=2
    )
    jobs = [("naive loop", 1), ("cached loop", 1), ("engine", 1), ("engine", 2)]
    measured = [bench.measure(contestant, batch, 16) for contestant, batch in jobs]
    assert len({item.tokens_hash for item in measured}) == 1
    assert [item.prompts for item in measured] == [2, 2, 1, 2]
    lines = format_table(measured).splitlines()[2:]
    assert len(lines) == 4
    assert all(line.endswith("| yes |") for line in lines)
    assert "| cached loop | 1 | 16 |" in lines[1]
    assert "| 1.00 |" in lines[1]


def test_the_command_writes_table_and_json(tmp_path, monkeypatch):
    timed = []

    def here(function, *job):
        timed.append(job)
        return function(*job)

    monkeypatch.setattr("dmaxlit.bench.speed.in_new_process", here)
    bench = DecodeSpeedBench(tmp_path, (1, 2), (8, 16), hidden_size=32, layers=1, vocab_size=50, block_length=8)
    table = bench.run()
    assert (tmp_path / "table.md").read_text() == table + "\n"
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["measurements"]) == len(timed) == 8
    assert content["machine"]["device"].startswith("cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 48}, "hidden_size: expected a multiple of head_dim 32, got 48"),
        ({"layers": 0}, "layers: expected at least 1, got 0"),
        ({"repeats": 0}, "repeats: expected at least 1, got 0"),
        ({"batches": []}, r"batches: expected numbers of at least 1, got \[\]"),
        ({"lengths": [0]}, r"lengths: expected numbers of at least 1, got \[0\]"),
    ],
)
def test_settings_out_of_range_are_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        DecodeSpeedBench(tmp_path, **options)
