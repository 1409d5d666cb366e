"""Training in a low precision throughout, where torch's default type is that of the weights."""

import lightning as L
import pytest

from dmaxlit import DMaxModule
from dmaxlit.noise import NOISE, MaskedNoise, MultiBlockNoise
from dmaxlit.noise.experimental import RolloutKNoise
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader, sgd

STRATEGIES = {
    **{name: NOISE.get(name) for name in NOISE},
    "masked, realized": lambda: MaskedNoise(weighting="realized"),
    "groups with ranges": lambda: MultiBlockNoise(ranges=[(0.001, 0.2), (0.8, 1.0)]),
    **{f"rollout_k {name}": lambda name=name: RolloutKNoise(decoder=name) for name in ("credit", "spd", "less", "t2m")},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_is_trained(name):
    module = DMaxModule(make_denoiser(sharpen=3.0), STRATEGIES[name](), optimizer=sgd)
    trainer = L.Trainer(**QUIET, precision="bf16-true", max_steps=1)
    trainer.fit(module, loader(n=4))
    assert trainer.callback_metrics["train/loss"].isfinite()
