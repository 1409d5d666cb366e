import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, Qwen3Config
from transformers.utils import logging as transformers_logging

from dmaxlit import load
from dmaxlit.backbone.transformers_internals import cache_argument, without_progress_bars

CONFIGS = [
    GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=11, n_positions=16),
    Qwen3Config(
        hidden_size=8, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1, vocab_size=11, head_dim=4
    ),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_a_base_model_takes_its_cache_by_that_name_without_a_notice(config):
    base = AutoModelForCausalLM.from_config(config).base_model
    cache = DynamicCache()
    base(torch.tensor([[1, 2, 3]]), use_cache=True, **{cache_argument(base): cache})
    assert cache.get_seq_length() == 3


@pytest.mark.parametrize("shown", [True, False])
def test_bars_are_what_they_were_before(shown):
    before = transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()
    try:
        with without_progress_bars():
            assert not transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.is_progress_bar_enabled() == shown
    finally:
        (transformers_logging.enable_progress_bar if before else transformers_logging.disable_progress_bar)()


def test_a_model_is_loaded_and_exported_without_a_bar(tmp_path, capfd):
    load("builtin:chain-base").export(tmp_path / "model")
    assert capfd.readouterr().err == ""
