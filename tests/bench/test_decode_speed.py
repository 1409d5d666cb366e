import json
from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.bench import DecodeSpeedBench
from dmaxlit.bench.batch_loops import diffusers_pipeline, dllm_loop
from dmaxlit.bench.decode_speed import format_table
from dmaxlit.bench.loops import cached_loop, naive_loop
from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.errors import DMaxWarning
from tests.engine.models import lively_denoiser, make_prompts
from tests.waits import Reads


@pytest.mark.parametrize("count", [1, 3])
def test_the_loops_and_the_engine_write_the_same_tokens(count):
    denoiser = lively_denoiser()
    prompts = [p for p in make_prompts((3, 8, 25, 17, 7)) if denoiser.special.mask_id not in p]
    engine = BlockDecoder(denoiser, ThresholdDecoder(0.0, max_tokens=count)).decode(prompts, 20)
    for prompt, row in zip(prompts, engine, strict=True):
        cached = cached_loop(denoiser, prompt, 20, count)
        assert cached == naive_loop(denoiser, prompt, 20, count)
        assert cached[: row.num_tokens] == row.token_ids


def test_the_loops_read_nothing_position_by_position():
    denoiser = lively_denoiser()
    for loop in (naive_loop, cached_loop):
        with torch.no_grad(), Reads() as reads:
            loop(denoiser, [1, 2, 3], 8, 2)
        assert reads.seen == []


@pytest.mark.parametrize("loop", [dllm_loop, diffusers_pipeline])
@pytest.mark.parametrize("count", [2, 8])
def test_published_procedures_write_the_same_tokens_behind_whole_blocks(loop, count):
    denoiser = lively_denoiser()
    prompts = [[token % 30 for token in prompt] for prompt in make_prompts((8, 24, 16))]  # no special tokens
    engine = BlockDecoder(denoiser, ThresholdDecoder(0.0, max_tokens=count)).decode(prompts, 20)
    with torch.no_grad():
        batch = loop(denoiser, prompts, 20, count)
    assert [len(tokens) for tokens in batch] == [20] * 3
    for tokens, row in zip(batch, engine, strict=True):
        assert tokens[: row.num_tokens] == row.token_ids
    assert sum(row.num_tokens for row in engine) > 20


def test_a_small_run_measures_everyone_and_all_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(DecodeSpeedBench, "matmul_speed", lambda self, dtype: 1e12)
    bench = DecodeSpeedBench(
        tmp_path, (1, 2), (16, 40), hidden_size=32, layers=1, vocab_size=100, block_length=8, tokens_per_step=2
    )
    jobs = [("naive loop", 1), ("cached loop", 1), ("engine", 1), ("engine", 2), ("dllm", 2), ("diffusers", 1)]
    measured = [bench.measure(contestant, batch, 16) for contestant, batch in jobs]
    assert len({item.tokens_hash for item in measured}) == 1
    assert [item.prompts for item in measured] == [1, 1, 1, 2, 2, 1]  # the engine's at its batch
    assert all(0 < item.outside_model < 1 for item in measured)
    assert all(0 < item.matmul_share < 1 for item in measured)
    assert [line.count("|") for line in format_table(measured).splitlines()] == [13] * 8
    older = [replace(item, outside_model=None, matmul_share=None) for item in measured]
    assert [line.count("|") for line in format_table(older).splitlines()] == [11] * 8
    lines = format_table(measured).splitlines()[2:]
    assert all(line.endswith("| yes |") for line in lines)
    assert "| cached loop | 1 | 16 |" in lines[1]
    assert "| 1.00 |" in lines[1]


def test_without_diffusers_its_pipeline_is_left_out(tmp_path, monkeypatch):
    bench = DecodeSpeedBench(tmp_path, (1, 4, 16), (128, 2048))
    batched = [job for job in bench.jobs() if job[0] in ("dllm", "diffusers")]
    sizes = [(1, 128), (16, 128), (1, 2048), (16, 2048)]
    assert batched == [*(("dllm", *size) for size in sizes), *(("diffusers", *size) for size in sizes[:3])]
    monkeypatch.setattr("dmaxlit.bench.decode_speed.find_spec", lambda name: None)
    with pytest.warns(DMaxWarning, match=r"diffusers is not installed \(pip install -e '\.\[dev\]'\)"):
        assert [job for job in bench.jobs() if job[0] == "diffusers"] == []


def test_the_command_writes_table_and_json(tmp_path, monkeypatch):
    timed = []

    def here(function, *job):
        timed.append(job)
        return function(*job)

    monkeypatch.setattr("dmaxlit.bench.speed.in_new_process", here)
    monkeypatch.setattr(DecodeSpeedBench, "matmul_speed", lambda self, dtype: 1e12)
    bench = DecodeSpeedBench(tmp_path, (1, 2), (8, 16), hidden_size=32, layers=1, vocab_size=50, block_length=8)
    table = bench.run()
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table + "\n"
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["measurements"]) == len(timed) == 16
    assert content["machine"]["device"].startswith("cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 48}, "hidden_size: expected a multiple of head_dim 32, got 48"),
        ({"device": "cube"}, "device: expected one that torch can compute on, got 'cube'"),
        ({"layers": 0}, "layers: expected at least 1, got 0"),
        ({"repeats": 0}, "repeats: expected at least 1, got 0"),
        ({"batches": []}, r"batches: expected numbers of at least 1, got \[\]"),
        ({"vocab_size": 3}, "vocab_size: expected at least 8, got 3"),
        ({"lengths": [0]}, r"lengths: expected numbers of at least 1, got \[0\]"),
    ],
)
def test_settings_out_of_range_are_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        DecodeSpeedBench(tmp_path, **options)
