import json
from pathlib import Path

import pytest
import torch

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.bench import AdaptationBench, table_rows
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


def test_the_table_has_the_methods_and_seeds_that_are_asked_for_and_decodes_the_rows_it_lacks(tmp_path, monkeypatch):
    decoded = []

    def decode(model, seed, rows, num_examples):
        decoded.append((model, [row.label for row in rows]))
        figures = ("accuracy", "tpf", "tpf_ceiling", "tpf_ceiling_two", "forwards_per_answer", "tokens_per_second")
        return [{"row": row.key, "num_examples": 1, "finished": 1.0, **dict.fromkeys(figures, 0.5)} for row in rows]

    monkeypatch.setattr(table_rows, "decode_rows", decode)
    monkeypatch.setattr(AdaptationBench, "_adapted", lambda self, method, seed: f"{method} {seed}")
    labels = ["one token per forward", "threshold 0.95", "threshold 0.5"]
    both = bench(tmp_path, seeds=(0, 1), methods=("warm-up", "no warm-up")).run()
    assert len(both.splitlines()) == 2 + 2 * 3
    assert decoded == [(f"{method} {seed}", labels) for seed in (0, 1) for method in ("warm-up", "no warm-up")]
    path = tmp_path / "runs" / "no_warm-up-1.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))
    decoded.clear()
    fewer = bench(tmp_path, seeds=(1,), methods=("no warm-up",)).run()
    assert [line.split("|")[2].strip() for line in fewer.splitlines()[2:]] == ["1", "1", "1"]
    assert decoded == [("no warm-up 1", labels[-1:])]


@pytest.mark.slow
def test_models_are_trained_by_the_command_and_decoded(tmp_path, fits_in_process):
    adapted = bench(tmp_path, num_examples=2)
    table = adapted.run()
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table + "\n"
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "warm-up / one token per forward",
        "warm-up / threshold 0.95",
        "warm-up / threshold 0.5",
    ]
    for name in ("autoregressive-0", "warm-up-0"):
        assert load(tmp_path / name / "model").task().options()["difficulty"] == "easy"
    assert adapted.run() == table
