"""Compiled forwards: few shapes, the same tokens."""

import pytest
import torch

from dmaxlit.decoding import make_decoder
from dmaxlit.engine import BlockDecoder
from tests.engine.models import lively_denoiser, make_prompts

PROMPTS = make_prompts((3, 25, 8, 39, 17, 0, 12))


class Shapes:
    """Stands for the compiled forward and notes the shapes it is called with."""

    def __init__(self, run):
        self.run = run
        self.seen = []
        self.lengths = set()

    def __call__(self, allowed, position_ids, cache, inputs_embeds):
        self.seen.append((*allowed.value.shape, *position_ids.shape, *inputs_embeds.shape[:2]))
        self.lengths.add(cache.length)
        return self.run(allowed, position_ids, cache, inputs_embeds=inputs_embeds)


@pytest.mark.parametrize("name", ["threshold", "spd", "psd", "wino"])
def test_the_tokens_are_the_same_and_the_shapes_are_few(name):
    denoiser = lively_denoiser()
    denoiser.__dict__["compiled_hidden"] = shapes = Shapes(denoiser.hidden)
    plain, static = (
        BlockDecoder(denoiser, make_decoder(name), batch_size=5, compile=compile) for compile in (False, True)
    )
    assert static.decode(PROMPTS, 40) == plain.decode(PROMPTS, 40)
    assert len(shapes.seen) > 10
    # Rows: 1, 2, 4, 8. Keys: all there are, for 128 are more than that.
    assert len(set(shapes.seen)) <= 4
    assert {rows for rows, *_ in shapes.seen} <= {1, 2, 4, 8}


@pytest.mark.slow
def test_dynamo_follows_the_forward_and_its_cache():
    torch.compiler.reset()  # after many shapes of other tests dynamo would not look at the forward any more
    denoiser = lively_denoiser()
    denoiser.__dict__["compiled_hidden"] = torch.compile(
        denoiser.hidden, dynamic=False, backend="eager", fullgraph=True
    )
    plain, static = (
        BlockDecoder(denoiser, make_decoder("spd"), batch_size=4, compile=compile) for compile in (False, True)
    )
    assert static.decode(PROMPTS[:4], 16) == plain.decode(PROMPTS[:4], 16)


def test_without_cache_nothing_is_compiled():
    denoiser = lively_denoiser()
    denoiser.__dict__["compiled_hidden"] = None
    BlockDecoder(denoiser, make_decoder("spd"), use_cache=False, compile=True).decode(PROMPTS[:1], 8)


def test_caches_have_few_lengths_whatever_the_longest_prompt():
    denoiser = lively_denoiser(max_position_embeddings=512)
    denoiser.__dict__["compiled_hidden"] = shapes = Shapes(denoiser.hidden)
    engine = BlockDecoder(denoiser, make_decoder("spd"), batch_size=1, compile=True)
    for length in (3, 40, 90, 150, 200, 300, 490):
        engine.decode(make_prompts((length,)), 20)
    assert shapes.lengths == {129, 257, 513}  # one is for what is not kept


def test_keys_of_long_contexts_have_few_lengths():
    denoiser, prompts = lively_denoiser(max_position_embeddings=1024), make_prompts((3, 600, 120, 250))
    denoiser.__dict__["compiled_hidden"] = shapes = Shapes(denoiser.hidden)
    plain, static = (
        BlockDecoder(denoiser, make_decoder("spd"), batch_size=3, compile=compile) for compile in (False, True)
    )
    assert static.decode(prompts, 20) == plain.decode(prompts, 20)
    assert len({allowed[-1] for *allowed, _, _, _, _ in shapes.seen}) > 1
    assert len(set(shapes.seen)) <= 6
