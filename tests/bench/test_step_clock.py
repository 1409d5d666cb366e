import random
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.profiler import profile

from dmaxlit import DMaxModule
from dmaxlit.bench.process_figures import read_figures
from dmaxlit.bench.step_clock import StepClock, collective_spans, covered_seconds
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader, sgd


def event(name, begin, end, device="CPU"):
    return SimpleNamespace(
        name=name, time_range=SimpleNamespace(start=begin, end=end), device_type=SimpleNamespace(name=device)
    )


def test_the_clock_counts_the_tokens_of_the_updates_after_the_warm_up(tmp_path):
    module, rows = DMaxModule(make_denoiser(), optimizer=sgd), loader()
    tokens = [int((batch["roles"] != 0).sum()) for batch in rows]
    clock = StepClock(str(tmp_path), warm_up=1, updates=1, profiled=1)
    L.Trainer(**{**QUIET, "max_steps": 3}, callbacks=[clock]).fit(module, rows)
    (figures,) = read_figures(tmp_path)
    assert figures.tokens == tokens[1]
    assert figures.seconds > 0
    assert figures.in_collectives == 0


def test_collectives_of_gloo_and_nccl_are_found_among_other_events():
    events = [
        event("aten::mm", 0, 1e6),
        event("gloo:all_reduce", 1e6, 3e6),
        event("nccl:_all_gather_base", 3e6, 4e6),  # the call on the host, which does not wait
        event("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 5e6, 6e6, "CUDA"),
        event("void gemm()", 6e6, 7e6, "CUDA"),
    ]
    assert collective_spans(events) == [(1.0, 3.0), (5.0, 6.0)]


def test_a_real_collective_is_among_the_events_of_the_profiler(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with profile() as profiler:
            torch.distributed.all_reduce(torch.ones(10))
    finally:
        torch.distributed.destroy_process_group()
    assert len(collective_spans(profiler.events())) == 1


@pytest.mark.parametrize("seed", range(5))
def test_time_that_several_collectives_cover_counts_once(seed):
    chance = random.Random(seed)
    spans = [(begin, begin + chance.randint(0, 9)) for begin in (chance.randint(0, 40) for _ in range(8))]
    covered = {second for begin, end in spans for second in range(begin, end)}
    assert covered_seconds(spans) == len(covered)
