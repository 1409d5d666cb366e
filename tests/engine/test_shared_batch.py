"""Requests with settings of their own enter and leave a batch between forwards, and get what they get alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dmaxlit.decoding import make_decoder
from dmaxlit.engine import BlockDecoder, Sampler
from dmaxlit.engine.block_rows import BlockRows
from dmaxlit.engine.lane import Lane
from dmaxlit.engine.request import Request
from dmaxlit.engine.sampler import SamplerPerPrompt
from dmaxlit.engine.shared_batch import SharedBatch
from tests.engine.models import lively_denoiser, make_prompts

PROMPTS = make_prompts()
BUDGETS = (20, 9, 31, 20, 14, 25, 8, 40)
# Decoder, its options, and what else the engine is told.
SETTINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("spd", {}, {}),
    ("spd", {"top_k": 3, "contiguous": False}, {}),
    ("threshold", {"threshold": 0.5}, {}),
    ("threshold", {"threshold": 0.5}, {"sampler": Sampler(1.3, 0.9, seed=7)}),
    ("edit", {}, {"max_forwards": 5}),
]


@pytest.fixture(scope="module")
def denoiser():
    return lively_denoiser()


def make_engines(denoiser, settings, **common):
    return [BlockDecoder(denoiser, make_decoder(name, **options), **rest, **common) for name, options, rest in settings]


def alone(engines, index):
    engine = engines[index % len(engines)]
    engine.sampler.first_index = 0
    return engine.decode([PROMPTS[index]], BUDGETS[index])[0]


class Run:
    """A batch of at most ``num_rows`` requests, one lane for each engine."""

    def __init__(self, engines, num_rows):
        self.engines, self.finished, self.failed = engines, {}, {}
        self.samplers = {}
        self.batch = engines[0].make_batch(num_rows)
        self.lanes = [engine.make_lane(SamplerPerPrompt(self.samplers)) for engine in engines]

    def add(self, index, prompt=None):
        which = index % len(self.engines)
        engine = self.engines[which]
        self.samplers[index] = engine.sampler
        prompt = PROMPTS[index] if prompt is None else prompt
        self.batch.add(engine.make_request(index, prompt, BUDGETS[index]), self.lanes[which])

    @torch.no_grad()
    def step(self):
        for event in self.batch.step().values():
            self.finished |= event.finished
            self.failed |= event.failed

    def to_the_end(self):
        while self.batch.size:
            self.step()


@pytest.mark.parametrize("window", [1, 3])
def test_requests_of_several_decoders_enter_between_forwards(denoiser, window):
    engines = make_engines(denoiser, SETTINGS, window=window)
    run = Run(engines, num_rows=5)
    waiting = [5, 2, 7, 0, 3, 6, 1, 4]
    while waiting or run.batch.size:
        if waiting and run.batch.size < 5:  # one at a time, so that all are out of step
            run.add(waiting.pop(0))
        run.step()
    assert run.finished == {index: alone(engines, index) for index in range(len(PROMPTS))}


def test_versions_of_a_block_are_shared_by_requests_of_one_decoder(denoiser):
    engines = make_engines(denoiser, [("wino", {}, {}), ("wino", {}, {"max_forwards": 3})])
    run = Run(engines, num_rows=4)
    for index in (4, 1, 2, 5):
        run.add(index)
        run.step()
    run.to_the_end()
    assert run.finished == {index: alone(engines, index) for index in (4, 1, 2, 5)}


@pytest.mark.parametrize("when", [0, 1, 4])
def test_a_request_that_leaves_disturbs_no_other_and_frees_its_row(denoiser, when):
    engines = make_engines(denoiser, SETTINGS)
    run = Run(engines, num_rows=3)
    for index in (2, 0, 5):
        run.add(index)
    for _ in range(when):
        run.step()
    size = run.batch.size
    assert 0 not in run.finished
    run.batch.discard(0)
    run.batch.discard(0)
    assert run.batch.size == size - 1
    run.add(7)
    run.to_the_end()
    assert run.finished == {index: alone(engines, index) for index in (2, 5, 7)}


@pytest.mark.parametrize(("window", "attention"), [(1, "sdpa"), (1, "eager"), (3, "sdpa")])
def test_a_request_of_which_the_model_computes_nan_fails_alone_and_spoils_no_later_one(window, attention):
    denoiser = lively_denoiser(attn_implementation=attention, vocab_size=40)
    with torch.no_grad():
        denoiser.embedding[39] = torch.nan  # of a token that is never predicted
    engines = make_engines(denoiser, SETTINGS, window=window)
    run = Run(engines, num_rows=3)
    for index in (2, 5):
        run.add(index)
    run.step()
    run.add(6, [1] * 20 + [39] * 60)
    run.step()
    assert list(run.failed) == [6]
    assert run.failed[6].startswith("expected finite hidden states of the model, got NaN")
    assert run.batch.size == 2
    run.add(7)  # takes over its row
    run.to_the_end()
    assert run.finished == {index: alone(engines, index) for index in (2, 5, 7)}


class Hidden:
    """Hidden states that note where the indices of their rows are."""

    def __init__(self):
        self.devices = []

    def __getitem__(self, rows):
        self.devices.append(rows.device.type)
        return self


class FarForward:
    """A forward on a device without numbers."""

    device = torch.device("meta")

    def __init__(self, hidden):
        self.hidden = hidden

    def __call__(self, requests, blocks):
        return self.hidden

    def reserve(self, max_length):
        pass

    def group_order(self, requests, remaining):
        return list(remaining)


class FarLane(Lane):
    """A lane of requests there; it decides nothing."""

    has_moved, inputs = False, torch.empty(1, 4, 3, device="meta")

    def __init__(self):
        pass

    def arrange(self, batch):
        return BlockRows(batch)

    def advance(self, hidden):
        return SimpleNamespace(finished={}, failed={})


def test_the_rows_of_lanes_are_on_the_device_before_a_forward():
    hidden = Hidden()
    batch = SharedBatch(FarForward(hidden))
    for index in range(2):
        batch.add(Request(index, [], 8, block_length=4), FarLane())
    for _ in range(3):
        batch.step()
    assert hidden.devices == ["meta"] * 6


def test_the_cache_grows_with_longer_requests(denoiser):
    engines = make_engines(denoiser, SETTINGS[:1])
    run = Run(engines, num_rows=2)
    run.add(1)
    for _ in range(2):
        run.step()
    run.add(4)  # four times as long
    run.to_the_end()
    assert run.finished == {index: alone(engines, index) for index in (1, 4)}
