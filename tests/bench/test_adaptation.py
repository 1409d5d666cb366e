import json
from pathlib import Path

import pytest
import torch

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.bench import AdaptationBench
from dmaxlit.bench.adaptation import forget_mask
from tests.conftest import make_denoiser

CONFIGS = Path(__file__).parents[2] / "configs"


def bench(output, **settings):
    chosen = {"seeds": (0,), "autoregressive_steps": 1, "steps": 1, "num_examples": 1, "methods": ("warm-up",)}
    return AdaptationBench(output, CONFIGS, **{**chosen, **settings})


def test_the_warm_up_takes_its_share_of_the_same_budget(tmp_path):
    assert bench(tmp_path, steps=300).stages("warm-up") == {0: 1, 30: 4, 60: 8, 90: 16, 120: 32}
    assert bench(tmp_path).stages("no warm-up") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("magic",)}, "methods: expected some of"),
        ({"methods": ()}, "methods: expected at least one, got none"),
        ({"seeds": ()}, "seeds: expected at least one, got none"),
        ({"steps": 0}, "steps: expected at least 1"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        bench(tmp_path, **settings)


def test_results_of_other_settings_are_not_mixed_in(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"autoregressive_steps": 1, "steps": 7, "num_examples": 1}))
    with pytest.raises(UserError, match="steps: expected 7"):
        bench(tmp_path).run()


def test_a_forgotten_mask_has_the_direction_of_the_mean_embedding():
    module = DMaxModule(make_denoiser())
    table, mask = module.backbone.embedding, module.special.mask_id
    with torch.no_grad():
        table[mask] = 0.0
    forget_mask(module)
    others = torch.cat([table[:mask], table[mask + 1 :]])
    cosine = torch.nn.functional.cosine_similarity(table[mask], others.mean(0), dim=0)
    assert cosine.item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_models_are_trained_by_the_command_and_decoded(tmp_path, fits_in_process):
    adaptation = bench(tmp_path, num_examples=2)
    table = adaptation.run()
    assert (tmp_path / "table.md").read_text() == table + "\n"
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "warm-up / one token per forward",
        "warm-up / threshold 0.95",
        "warm-up / threshold 0.5",
    ]
    for name in ("autoregressive-0", "warm-up-0"):
        assert load(tmp_path / name / "model").task().options()["difficulty"] == "easy"
    assert adaptation.run() == table
