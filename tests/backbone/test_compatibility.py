"""Models that are refused for their configuration."""

import pytest

from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from tests.conftest import TINY

LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 32,
}
FALCON = {"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
NO_POSITIONS = r"expected a model that is given position_ids \(max_position_embeddings in its config\), got "


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 2}, NO_POSITIONS + "bloom"),
        ({"model_type": "mpt", "d_model": 32, "n_layers": 2, "n_heads": 2}, NO_POSITIONS + "mpt"),
        ({"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2}, NO_POSITIONS + "mamba"),
        (
            {
                "model_type": "falcon",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "alibi": True,
            },
            "got falcon with ALiBi",
        ),
        ({**TINY, "rope_parameters": LONGROPE}, "max_length: expected at most 32, got 128: beyond it qwen3"),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_it_is_refused_in_one_line(config, message, attention):
    with pytest.raises(UserError, match=message) as caught:
        Denoiser(config=config, tokenizer="chain", block_length=8, attn_implementation=attention)
    assert "\n" not in str(caught.value)


def test_longrope_is_no_obstacle_within_the_original_length():
    denoiser = Denoiser(config={**TINY, "rope_parameters": LONGROPE}, tokenizer="chain", block_length=8, max_length=39)
    assert denoiser.max_length == 32


def test_falcon_with_rotary_positions_is_accepted():
    Denoiser(config={**FALCON, "alibi": False, "max_position_embeddings": 64}, tokenizer="chain", block_length=8)
