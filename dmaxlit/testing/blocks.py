"""Blocks, predictions, and the states that a decoder goes through."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dmaxlit.decoding import BlockState, Decoder, SoftTokens, make_decoder
from dmaxlit.decoding.base import Sampling
from dmaxlit.engine.decoder_checks import DecoderChecks
from dmaxlit.engine.state_rules import NewBlocks
from dmaxlit.tokens import SpecialTokens

SPECIAL = SpecialTokens(mask_id=17, eos_id=18, pad_id=19, vocab_size=20)
NUM_LOGITS = SPECIAL.vocab_size + 3  # of a padded table, V
LENGTH = 6
NUM_ROWS = 5
_NUM_STEPS = 8
_FIELDS = ("ids", "editable", "masked", "step", "converged", "extra_blocks")

DecoderFactory = Callable[..., Decoder]


def decoder_factory(decoder: str | type[Decoder] | Decoder, options: dict[str, Any]) -> DecoderFactory:
    """Return a function that makes new decoders of the same options, and takes further ones, but of an instance none.

    Args:
        decoder: Registered name, import path, class or instance.
        options: Options of the constructor; an instance takes none.
    """
    if isinstance(decoder, Decoder):
        pristine = copy.deepcopy(make_decoder(decoder, **options))
        return lambda: copy.deepcopy(pristine)
    return lambda **more: make_decoder(decoder, **{**options, **more})


def make_checks(decoder: Decoder) -> DecoderChecks:
    """Return the checks of types and bounds."""
    return DecoderChecks(decoder, SPECIAL, SPECIAL.vocab_size, LENGTH, enabled=False)


def new_blocks() -> NewBlocks:
    """Return blocks with prompts of 0, 1, 2, ... tokens, the first of which is the mask token."""
    ids = torch.randint(0, SPECIAL.vocab_size, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = SPECIAL.mask_id
    editable = torch.arange(LENGTH) >= torch.arange(NUM_ROWS)[:, None]
    return NewBlocks(ids, editable, SPECIAL.mask_id, SPECIAL.vocab_size)


def start(decoder: Decoder) -> BlockState:
    """Return the state of new blocks.

    Raises:
        UserError: If its types or shapes are wrong.
    """
    new = new_blocks()
    return make_checks(decoder).check_types("start", decoder.start(new.ids, new.editable, SPECIAL), new.ids)


def random_logits(decoder: Decoder, seed: int) -> Tensor:
    """Return the logits of a forward, random ones that are the same for the same seed."""
    blocks = (1 + decoder.extra_blocks,) if decoder.extra_blocks else ()
    shape = (NUM_ROWS, *blocks, LENGTH, NUM_LOGITS)
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    logits[..., SPECIAL.mask_id] = -torch.inf
    logits[..., SPECIAL.vocab_size :] = -torch.inf
    return logits


def take_step(decoder: Decoder, state: BlockState, logits: Tensor) -> BlockState:
    """Return the state after a step.

    Raises:
        UserError: If its types or shapes are wrong.
    """
    return make_checks(decoder).check_types("step", decoder.step(state, logits, SPECIAL), state.ids)


def walk(decoder: Decoder, num_steps: int = _NUM_STEPS) -> Iterator[tuple[BlockState, Tensor]]:
    """Yield the states along a few steps, each with the logits of its forward, which settle after some steps."""
    state = start(decoder)
    for step in range(num_steps):
        logits = random_logits(decoder, min(step, 4))
        yield state, logits
        state = take_step(decoder, state, logits)


def run(decoder: Decoder, logits: Tensor, num_steps: int, sampling: Sampling | None = None) -> BlockState:
    """Return the state after some forwards with the same logits; blocks that have converged rest.

    Args:
        decoder: The decoder.
        logits: The logits.
        num_steps: Most forwards.
        sampling: How to draw tokens.
    """
    state, checks = replace(start(decoder), sampling=sampling), make_checks(decoder)
    for _ in range(num_steps):
        done = state.converged.nonzero().squeeze(1)
        if len(done) == NUM_ROWS:
            break
        after = take_step(decoder, state, logits)
        checks.check_kept(state, after)
        after = replace(after, sampling=state.sampling)  # as the engine does
        state = after.assign(done, state.select(done))
    return state


def difference(one: BlockState, other: BlockState) -> str | None:
    """Return the name of a field in which two states of the same blocks differ, or None."""
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in _FIELDS}
    names = {*one.memory, *other.memory}
    pairs |= {f"memory[{name!r}]": (one.memory.get(name), other.memory.get(name)) for name in sorted(names)}
    for name, (a, b) in pairs.items():
        if not _is_same(a, b):
            return name
    return None if _is_same_mixture(one.soft, other.soft) else "soft"


def _is_same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.allclose(a, b, equal_nan=True) if a.is_floating_point() else torch.equal(a, b)


def _is_same_mixture(a: SoftTokens | None, b: SoftTokens | None) -> bool:
    if a is None or b is None:
        return a is b
    if not torch.equal(a.where, b.where) or a.slerp != b.slerp:
        return False
    return torch.equal(a.ids[a.where], b.ids[b.where]) and torch.allclose(a.weights[a.where], b.weights[b.where])
