from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from dmaxlit.checkpoints.lightning_file import checkpoint_metadata, checkpoint_to_folder
from tests.data.chat_tokenizers import CHATML, byte_level


@pytest.mark.parametrize("template", [None, CHATML, {"default": CHATML, "tool_use": CHATML + "{{ tools }}"}])
def test_a_model_folder_of_a_checkpoint_has_all_chat_templates(tmp_path, template):
    tokenizer = byte_level(template)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )
    backbone = SimpleNamespace(tokenizer=tokenizer, model=model, lora=None, embedding_name=None, auxiliary=None)
    weights = {f"backbone.model.{name}": tensor for name, tensor in model.state_dict().items()}
    payload = {"state_dict": weights, "dmaxlit": checkpoint_metadata(backbone, {})}
    torch.save(payload, tmp_path / "a.ckpt")
    checkpoint_to_folder(tmp_path / "a.ckpt", tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == template
