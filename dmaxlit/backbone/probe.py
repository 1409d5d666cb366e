"""A behavioural probe: a few tiny forwards that show whether a model is a block-diffusion denoiser.

Some models take a block mask and do something else: they keep a causal mask of their own, carry a state past the mask,
or place tokens by their index in the input. The probe computes two blocks of a few tokens, doubled as in training, and
compares outputs with those after a change of tokens, positions, order or neighbours.

Forwards of one shape compute a token that saw no change bit by bit as before, so what the mask hides shows no influence
at all. Other comparisons allow for rounding, and for an expert router that a rounding error tips over: they take the
median over tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.linalg import vector_norm
from transformers import PreTrainedModel

from dmaxlit.backbone.attention import block_diffusion_mask, to_model_mask
from dmaxlit.backbone.cache import RowCache
from dmaxlit.backbone.eval_mode import evaluating
from dmaxlit.backbone.transformers_internals import attention_of, computing_with
from dmaxlit.errors import UserError, reason_of
from dmaxlit.tokens import SpecialTokens

_MOST_TOKENS = 4  # per block
_LEAK = 0.1  # of the influence of a token that may be attended to
_NOTHING = 1e-4  # of the same
_ROUNDING = 1e-4  # relative difference of states in float32: ten times what 48 layers of random weights add up to
_HEAD = 0.02  # relative difference of logits, beyond any rounding

_passed = set[str]()


class Probed(Protocol):
    """What the probe uses of a :class:`~dmaxlit.backbone.denoiser.Denoiser`."""

    model: PreTrainedModel
    special: SpecialTokens

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    def hidden(self, *inputs: Any, **named: Any) -> Tensor:
        """Compute the last hidden states of one forward."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits of hidden states."""


def check_behavior(denoiser: Probed) -> None:
    """Refuse a model that does not behave as a block-diffusion denoiser.

    Computes nine forwards of at most 32 tokens in eval mode, without gradients or random numbers. Configurations that
    have passed in this process are not probed again, nor are models without weights or with a context of less than four
    tokens.

    Args:
        denoiser: The denoiser, with its weights.

    Raises:
        UserError: With the property that the model lacks.
    """
    settings = (type(denoiser), denoiser.model.config.to_json_string(use_diff=False), denoiser.max_length)
    key = repr((*settings, denoiser.model.dtype, attention_of(denoiser.model)))
    if key in _passed or denoiser.device.type == "meta" or denoiser.max_length < 4:
        return
    try:
        with _at_rest(denoiser):
            lacking = _first_lacking(denoiser)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        lacking = f"its forward under a block mask fails ({reason_of(error, with_type=True)})"
    if lacking is not None:
        raise UserError(
            f"backbone: expected a block-diffusion denoiser, got {denoiser.model.config.model_type}: {lacking}; "
            "--probe false (fit: --model.backbone.probe false) skips this check"
        )
    _passed.add(key)


@contextmanager
def _at_rest(denoiser: Probed) -> Iterator[None]:
    """Compute in eval mode without gradients, with attention that a CPU can compute; restore everything."""
    devices = [denoiser.device] if denoiser.device.type == "cuda" else []
    attention = attention_of(denoiser.model)
    with (
        torch.no_grad(),
        evaluating(denoiser.model.modules()),
        torch.random.fork_rng(devices),
        computing_with(denoiser.model, "eager" if attention == "flex_attention" else attention),
    ):
        yield


class _Doubled:
    """Two clean blocks and two noisy ones in two rows; the second block of the second row is far from the first.

    Args:
        denoiser: The denoiser.
    """

    def __init__(self, denoiser: Probed) -> None:
        self._denoiser = denoiser
        length = self.length = min(_MOST_TOKENS, denoiser.max_length // 2)
        device = denoiser.device
        self.clean, self.noisy = (
            [slice((copy + block) * length, (copy + block + 1) * length) for block in (0, 1)] for copy in (0, 2)
        )
        block = torch.arange(4, device=device).repeat_interleave(length)
        self.allowed = block_diffusion_mask(block % 2, block % 2, block >= 2, block >= 2).expand(2, -1, -1)
        near = torch.arange(2 * length, device=device)
        far = torch.where(near < length, near, near + denoiser.max_length - 2 * length)
        self.positions = torch.stack([near, far]).repeat(1, 2)
        generator = torch.Generator().manual_seed(0)
        self._tokens = denoiser.special.vocab_size
        self.ids = torch.randint(0, self._tokens, (2, 4 * length), generator=generator).to(device)

    def hidden(self, ids: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Return hidden states ``[2, 4 * length, width]``, by default of the tokens and positions themselves."""
        ids, positions = self.ids if ids is None else ids, self.positions if positions is None else positions
        return self._denoiser.hidden(self.allowed, positions, input_ids=ids)

    def influence(self, base: Tensor, *changed: slice) -> Tensor:
        """Return how far other tokens in some places move each output, ``[2, 4 * length]``."""
        ids = self.ids.clone()
        for places in changed:
            ids[:, places] = (ids[:, places] + 1) % self._tokens
        return _distance(self.hidden(ids), base)

    def own_logits(self) -> Tensor:
        """Return the logits of the model's own forward."""
        model = self._denoiser.model
        mask = to_model_mask(self.allowed, attention_of(model), model.dtype)
        output = model(input_ids=self.ids, attention_mask=mask, position_ids=self.positions, use_cache=False)
        logits: Tensor = output.logits
        return logits

    def reversed(self) -> Tensor:
        """Return the hidden states of the input in the opposite order, in the original order."""
        mask = self.allowed.flip(1, 2)
        return self._denoiser.hidden(mask, self.positions.flip(1), input_ids=self.ids.flip(1)).flip(1)

    def block_by_block(self) -> Iterator[Tensor]:
        """Yield hidden states of the first row's clean blocks, alone and with cached keys, ``[1, length, width]``."""
        device, length = self.ids.device, self.length
        cache = RowCache(1, 2 * length, self._denoiser.model.config.num_hidden_layers)
        for number, places in enumerate(self.clean):
            keys = (number + 1) * length
            cache.prepare(slice(0, 1), torch.arange(2 * length, device=device)[None, places], keys)
            allowed = torch.ones(1, length, keys, dtype=torch.bool, device=device)
            yield self._denoiser.hidden(allowed, self.positions[:1, places], cache, input_ids=self.ids[:1, places])


def _first_lacking(denoiser: Probed) -> str | None:
    """Return the first property that the model lacks, None if it has all."""
    doubled = _Doubled(denoiser)
    base = doubled.hidden()
    influence, lacking = _attention(doubled, base)
    if lacking is not None:
        return lacking
    rounding = max(_ROUNDING, 16 * _precision(base.dtype))

    def differs(states: Tensor, expected: Tensor) -> bool:
        return bool(_distance(states, expected).median() > rounding)

    if differs(doubled.reversed(), base):
        return "its output depends on the order of the input, not on position_ids and the mask alone"
    swapped = doubled.positions.view(2, 4, -1).flip(-1).flatten(1)
    if influence > 0 and torch.equal(doubled.hidden(positions=swapped), base):
        return "its output does not depend on position_ids"
    prefix, rest = doubled.block_by_block()
    if differs(prefix, base[:1, doubled.clean[0]]):
        return "its output changes with what follows it, or with other rows of the batch"
    if differs(rest, base[:1, doubled.clean[1]]):
        return "its output with a cache of keys and values is another than without"
    ours, theirs = denoiser.logits(base), doubled.own_logits()
    words = ours[0, 0] != -torch.inf  # all but the mask token and spare rows
    if _distance(ours[..., words], theirs[..., words]).median() > _HEAD:
        return "its logits are more than its output embedding of the last hidden states"
    return None


def _attention(doubled: _Doubled, base: Tensor) -> tuple[float, str | None]:
    """Return the influence of tokens that may be attended to, and what is wrong with who influences whom."""
    clean, noisy, last = doubled.clean, doubled.noisy, doubled.length - 1
    ends = [slice(block.start + last, block.stop) for block in (clean[1], noisy[0])]
    others = [slice(block.start, block.start + last) for block in (clean[1], noisy[0])]
    by_ends = doubled.influence(base, *ends)
    by_first = doubled.influence(base, clean[0])
    by_second = doubled.influence(base, clean[1], noisy[1])
    visible = {
        "later tokens of their block": [by_ends[:, places] for places in others],
        "earlier blocks": [by_first[:, clean[1]], by_first[:, noisy[1]]],
    }
    influence = max(float(moved.median()) for group in visible.values() for moved in group)
    hidden = [by_ends[:, clean[0]], by_ends[:, noisy[1]], by_first[:, noisy[0]]]
    hidden += [by_second[:, clean[0]], by_second[:, noisy[0]]]
    precision = _precision(base.dtype)
    # In both rows, so that one expert router on the verge does not decide.
    if max(float(moved.amin(0).max()) for moved in hidden) > max(_LEAK * influence, precision):
        return influence, "tokens that the mask hides change its output"
    if influence > precision:  # else too little to tell: a fresh model may start without any
        for name, group in visible.items():
            if min(float(moved.max()) for moved in group) < _NOTHING * influence:
                return influence, f"tokens do not attend to {name}, which the mask shows"
    return influence, None


def _precision(dtype: torch.dtype) -> float:
    """Return the relative rounding error of a matrix product, which may be of a shorter type than its factors."""
    is_rounded = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return torch.finfo(torch.bfloat16 if is_rounded else dtype).eps


def _distance(states: Tensor, expected: Tensor) -> Tensor:
    """Return the relative distance of vectors along the last axis, in float32."""
    moved = vector_norm(states.float() - expected.float(), dim=-1)
    distance: Tensor = moved / vector_norm(expected.float(), dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return distance
