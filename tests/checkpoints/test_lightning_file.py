from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from dmaxlit import UserError
from dmaxlit.checkpoints.lightning_file import checkpoint_metadata, checkpoint_to_folder, stored_model
from tests.data.chat_tokenizers import CHATML, byte_level


def write(path, tokenizer):
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )
    backbone = SimpleNamespace(tokenizer=tokenizer, model=model, lora=None, embedding_name=None, auxiliary=None)
    weights = {f"backbone.model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": weights, "dmaxlit": checkpoint_metadata(backbone, {})}, path)


@pytest.mark.parametrize("template", [None, CHATML, {"default": CHATML, "tool_use": CHATML + "{{ tools }}"}])
def test_a_model_folder_of_a_checkpoint_has_all_chat_templates(tmp_path, template):
    write(tmp_path / "a.ckpt", byte_level(template))
    checkpoint_to_folder(tmp_path / "a.ckpt", tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == template


def test_a_tokenizer_may_have_files_that_are_no_texts(tmp_path, monkeypatch):
    tokenizer, found = byte_level(None), {}
    save, load = tokenizer.save_pretrained, AutoTokenizer.from_pretrained

    def save_more(folder, **options):
        save(folder, **options)
        (Path(folder) / "spiece.model").write_bytes(bytes(range(256)))
        (Path(folder) / "merges.txt").write_bytes("a é\r\n".encode())

    def load_and_look(folder, **options):
        found.update({name: (Path(folder) / name).read_bytes() for name in ("spiece.model", "merges.txt")})
        return load(folder, **options)

    monkeypatch.setattr(tokenizer, "save_pretrained", save_more)
    write(tmp_path / "a.ckpt", tokenizer)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", load_and_look)
    assert stored_model(tmp_path / "a.ckpt").tokenizer.get_vocab() == tokenizer.get_vocab()
    assert found == {"spiece.model": bytes(range(256)), "merges.txt": "a é\r\n".encode()}


@pytest.mark.parametrize("files", [["spiece.model"], {"spiece.model": b"1"}, None])
def test_such_files_of_another_form_are_refused(tmp_path, files):
    write(tmp_path / "a.ckpt", byte_level(None))
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["dmaxlit"]["tokenizer_base64"] = files
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"dmaxlit\.tokenizer_base64: expected the tokenizer's files, as texts"):
        stored_model(tmp_path / "a.ckpt")
