"""Training in a low precision throughout, where torch's default type is that of the weights."""

from dataclasses import fields

import lightning as L
import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.noise import NOISE, MaskedNoise, MultiBlockNoise, TSDNoise
from dmaxlit.noise.experimental import RolloutKNoise, StageConsistencyNoise
from tests.conftest import make_batch, make_denoiser
from tests.noise.test_contract import converse
from tests.test_module import QUIET, loader, sgd

STRATEGIES = {
    **{name: NOISE.get(name) for name in NOISE},
    "masked, realized": lambda: MaskedNoise(weighting="realized"),
    "groups with ranges": lambda: MultiBlockNoise(ranges=[(0.001, 0.2), (0.8, 1.0)]),
    "stage_consistency, weighted": lambda: StageConsistencyNoise(masked_weight=0.3, revealed_weight=0.7),
    "tsd, long answers": lambda: TSDNoise(length_penalty=0.5, target_length=4, max_length=27),
    **{f"rollout_k {name}": lambda name=name: RolloutKNoise(decoder=name) for name in ("credit", "spd", "less", "t2m")},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_is_trained(name):
    module = DMaxModule(make_denoiser(sharpen=3.0), STRATEGIES[name](), optimizer=sgd)
    trainer = L.Trainer(**QUIET, precision="bf16-true", max_steps=1)
    trainer.fit(module, loader(n=4))
    assert trainer.callback_metrics["train/loss"].isfinite()


def tensors_of(value):
    """Return the tensors of a view, its objectives and its soft tokens, by name."""
    if isinstance(value, tuple):
        return {f"{i} {name}": tensor for i, each in enumerate(value) for name, tensor in tensors_of(each).items()}
    found = {}
    for name in (field.name for field in fields(value)) if hasattr(value, "__dataclass_fields__") else ():
        inner = getattr(value, name)
        found |= {name: inner} if torch.is_tensor(inner) else {f"{name} {n}": t for n, t in tensors_of(inner).items()}
    return found


@pytest.mark.parametrize("name", STRATEGIES)
def test_views_and_weights_are_those_of_full_precision(name):
    clean = make_batch([3, 9], [19, 14])  # 19 tokens of 3 blocks: a quotient that 16 bits do not hold
    logits = torch.randn(*clean.ids.shape, clean.special.vocab_size, generator=torch.Generator().manual_seed(1))
    logits[..., clean.special.mask_id] = -torch.inf
    expected = converse(STRATEGIES[name](), clean, logits=logits)
    torch.set_default_dtype(torch.bfloat16)  # as the trainer does in a training step
    try:
        views = converse(STRATEGIES[name](), clean, logits=logits)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close([tensors_of(v) for v in views], [tensors_of(v) for v in expected], rtol=0, atol=0)
