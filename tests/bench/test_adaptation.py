import json
from pathlib import Path

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.bench import AdaptationBench
from dmaxlit.bench.autoregressive import AutoregressiveModule
from dmaxlit.randomness import RowGenerator
from tests.conftest import make_batch, make_denoiser

CONFIGS = Path(__file__).parents[2] / "configs"


def bench(output, **settings):
    chosen = {"seeds": (0,), "autoregressive_steps": 1, "steps": 1, "num_examples": 1, "methods": ("warm-up",)}
    return AdaptationBench(output, CONFIGS, **{**chosen, **settings})


def test_the_autoregressive_loss_is_the_model_s_own():
    module = AutoregressiveModule(make_denoiser(sharpen=3.0))
    clean = make_batch(special=module.special)
    clean.roles[:] = 2  # no padding, all response
    ids = clean.ids.clamp(max=34)
    clean = type(clean)(ids, clean.roles, clean.block_length, clean.special)
    (loss,) = module.view_losses(clean, RowGenerator(0, [0, 1, 2]))
    logits = module.backbone.model(ids).logits[:, :-1].clone()
    logits[..., module.special.mask_id] = -torch.inf
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(loss.total, expected)
    assert int(loss.supervised) == ids[:, 1:].numel()


def test_the_warm_up_takes_its_share_of_the_same_budget(tmp_path):
    assert bench(tmp_path, steps=300).stages("warm-up") == {0: 1, 30: 4, 60: 8, 90: 16, 120: 32}
    assert bench(tmp_path).stages("no warm-up") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"methods": ("magic",)}, "methods: expected some of"), ({"steps": 0}, "steps: expected at least 1")],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        bench(tmp_path, **settings)


def test_results_of_other_settings_are_not_mixed_in(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"autoregressive_steps": 1, "steps": 7, "num_examples": 1}))
    with pytest.raises(UserError, match="steps: expected 7"):
        bench(tmp_path).run()
