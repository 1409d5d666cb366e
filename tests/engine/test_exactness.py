"""What a row gets does not depend on the cache, its neighbours or the attention kernel, and SPD is the paper's."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from dmaxlit.decoding import DECODERS, make_decoder
from dmaxlit.engine import BlockDecoder
from tests.decoding.reference import reference_spd
from tests.engine.models import lively_denoiser, make_prompts

DECODER_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in DECODERS} | {
    "threshold": ("threshold", {"threshold": 0.5}),
    "spd, top 2": ("spd", {"top_k": 2, "contiguous": False}),
    "spd, slerp": ("spd", {"soft": "slerp"}),
    "spd, hard": ("spd", {"soft": False, "tau_dec": 0.0}),
}
SPD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"tau_dec": 0.0},
    {"tau_dec": 0.9, "tau_acc": 0.5},
    {"contiguous": False},
    {"soft": False},
    {"soft": "slerp"},
    {"soft": "slerp", "top_k": 3},
    {"stop_on_consistency": False, "tau_acc": 0.6},
    {"stop_on_confidence": False},
    {"top_k": 3},
    {"max_steps": 5},
]
BUDGET = 20
PROMPTS = make_prompts()


@pytest.fixture(scope="module")
def denoiser():
    return lively_denoiser()


def decode(denoiser, decoder, prompts=PROMPTS, **options):
    return BlockDecoder(denoiser, decoder, **options).decode(prompts, BUDGET)


@pytest.fixture(scope="module", params=DECODER_OPTIONS, ids=str)
def decoder(request):
    name, options = DECODER_OPTIONS[request.param]
    return make_decoder(name, **options)


@pytest.fixture(scope="module")
def together(denoiser, decoder):
    """All prompts in one batch."""
    return decode(denoiser, decoder)


def test_a_batch_of_ragged_prompts_is_each_prompt_alone(denoiser, decoder, together):
    assert together == [decode(denoiser, decoder, [prompt])[0] for prompt in PROMPTS]
    assert len({row.num_forwards for row in together}) > 2, "rows must be out of step for this to say anything"


def test_cached_is_uncached(denoiser, decoder, together):
    assert together == decode(denoiser, decoder, use_cache=False)


def test_neither_refilling_nor_a_prompt_s_place_in_the_queue_changes_anything(denoiser, decoder, together):
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    shuffled = decode(denoiser, decoder, [PROMPTS[i] for i in order], batch_size=3)
    assert shuffled == [together[i] for i in order]


def test_eager_attention_is_sdpa(decoder, together):
    assert decode(lively_denoiser(attn_implementation="eager"), decoder) == together


def test_float32_batches_are_float32_singles_without_cache(decoder):
    denoiser = lively_denoiser(block_length=4, dtype=torch.float32)
    prompts = PROMPTS[:4]
    batch = decode(denoiser, decoder, prompts, batch_size=3)
    assert batch == [decode(denoiser, decoder, [prompt], use_cache=False)[0] for prompt in prompts]


def test_a_mask_token_in_the_prompt_is_fed_and_kept_as_one(denoiser):
    mask = denoiser.special.mask_id
    prompts = [[1, mask, 3], [mask] * 9, [*PROMPTS[1], mask]]
    rows = decode(denoiser, make_decoder("spd"), prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        reference = reference_spd(denoiser.model, denoiser.special, prompt, 8, BUDGET)
        assert row.token_ids == reference.token_ids
        assert mask not in row.token_ids


@pytest.mark.parametrize("options", SPD_OPTIONS, ids=str)
def test_spd_is_the_paper_s_equations(denoiser, options):
    prompts = PROMPTS[:5]
    rows = decode(denoiser, make_decoder("spd", **options), prompts, batch_size=3)
    events = Counter()
    for prompt, row in zip(prompts, rows, strict=True):
        reference = reference_spd(denoiser.model, denoiser.special, prompt, 8, BUDGET, **options)
        assert row.token_ids == reference.token_ids
        assert row.num_forwards == reference.num_forwards
        assert (row.finished, row.hit_step_limit) == (reference.finished, reference.hit_step_limit)
        events += reference.events
        events["hit_step_limit"] += reference.hit_step_limit
    assert events["revised"] > 0
    assert expected_events(options) <= {event for event, count in events.items() if count}


def expected_events(options):
    """What a run with these options must have met at least once for the comparison to mean something."""
    if "max_steps" in options:
        return {"hit_step_limit", "masks at the cap", "forced", "several promoted"}
    events = {"eos inside a block", "hit_step_limit"}
    if options.get("tau_dec") != 0.0:
        events |= {"forced", "several promoted"}
    if not options.get("contiguous", True):
        events.add("promoted out of order")
    if options.get("stop_on_consistency", True):
        events.add("ended consistent only")
    if options.get("stop_on_confidence", True):
        events.add("ended confident only")
    return events


def test_every_option_of_spd_makes_a_difference(denoiser):
    prompts = PROMPTS[:3]
    outcomes = [decode(denoiser, make_decoder("spd", **options), prompts) for options in SPD_OPTIONS]
    for (i, a), (j, b) in itertools.combinations(enumerate(outcomes), 2):
        assert a != b, (SPD_OPTIONS[i], SPD_OPTIONS[j])


@pytest.mark.parametrize("block_length", [4])
def test_spd_is_the_paper_s_equations_for_other_models(block_length):
    denoiser = lively_denoiser(seed=6, block_length=block_length)
    prompts = PROMPTS[:3]
    for prompt, row in zip(prompts, decode(denoiser, make_decoder("spd"), prompts), strict=True):
        reference = reference_spd(denoiser.model, denoiser.special, prompt, block_length, BUDGET)
        assert (row.token_ids, row.num_forwards) == (reference.token_ids, reference.num_forwards)
