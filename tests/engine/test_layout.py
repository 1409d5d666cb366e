"""Layouts are made once for as long as nothing moves, and anew when something does."""

import weakref

import pytest
import torch

from dmaxlit.decoding import ThresholdDecoder, make_decoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.engine.block_forward import BlockForward
from dmaxlit.engine.lane import Lane
from dmaxlit.engine.layout import Layouts
from dmaxlit.engine.request import Request
from tests.engine.models import lively_denoiser, make_prompts


@pytest.fixture
def made(monkeypatch):
    """Count the layouts that are made."""
    calls = []
    for name in ("padded", "with_extra_rows"):
        real = getattr(Layouts, name)

        def counted(layouts, *arguments, real=real):
            calls.append(arguments)
            return real(layouts, *arguments)

        monkeypatch.setattr(Layouts, name, counted)
    return calls


def test_a_block_of_eight_forwards_has_two_layouts(made):
    (sequence,) = BlockDecoder(lively_denoiser(), ThresholdDecoder(1.0)).decode(make_prompts((16,)), 8)
    assert sequence.num_forwards == 8
    assert len(made) == 2  # with the prompt, and without


@pytest.mark.parametrize(("name", "window"), [("threshold", 1), ("spd", 1), ("wino", 1), ("spd", 3)])
def test_a_layout_is_that_of_a_forward_that_remembers_nothing(name, window, monkeypatch):
    engine = BlockDecoder(lively_denoiser(), make_decoder(name), batch_size=3, window=window)
    prompts = make_prompts((3, 25, 8, 0, 17))
    expected = engine.decode(prompts, 24)
    real = BlockForward.__call__

    def forgetful(forward, *arguments):
        forward._forget_plan()
        return real(forward, *arguments)

    monkeypatch.setattr(BlockForward, "__call__", forgetful)
    assert engine.decode(prompts, 24) == expected


def test_the_forward_walks_over_no_modules(monkeypatch):
    denoiser = lively_denoiser().eval()
    engine = BlockDecoder(denoiser, ThresholdDecoder(1.0))
    events = engine.forwards(make_prompts((3,)), 8)
    next(events)
    monkeypatch.setattr(torch.nn.Module, "named_modules", None)
    assert next(events).state.ids.shape == (1, 8)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_requests_are_arranged_once_for_as_long_as_nothing_moves(batch_size, monkeypatch):
    calls = []
    real = Lane.arrange
    monkeypatch.setattr(Lane, "arrange", lambda lane, batch: calls.append(len(batch)) or real(lane, batch))
    engine = BlockDecoder(lively_denoiser(), ThresholdDecoder(1.0), batch_size)
    engine.decode(make_prompts((16, 16, 16)), 8)  # every block takes eight forwards
    assert len(calls) == 3 // batch_size


@torch.no_grad()
def test_the_cache_is_freed_with_its_last_use():
    denoiser = lively_denoiser()
    request, blocks = Request(0, [1] * 16, 8, 8), torch.zeros(1, 8, 32, dtype=torch.float64)
    forward = BlockForward(denoiser, 1, 24)
    forward([request], blocks)
    forward([request], blocks)  # whose plan is kept for the next one
    freed = weakref.ref(forward)
    del forward
    assert freed() is None


@torch.no_grad()
def test_a_cache_that_has_grown_gets_new_layouts(made):
    denoiser = lively_denoiser()
    blocks = torch.randn(2, 8, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    requests = [Request(index, prompt, 8, 8) for index, prompt in enumerate(make_prompts((16, 8)))]
    forward = BlockForward(denoiser, 2, 24)
    for _ in range(2):  # with the prompts, and without
        hidden = forward(requests, blocks)
    forward(requests, blocks)
    number = len(made)
    forward.reserve(64)
    assert torch.equal(forward(requests, blocks), hidden)
    assert len(made) > number
