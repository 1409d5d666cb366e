"""Models without training, for the benchmarks of speed."""

import tempfile
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from dmaxlit.backbone.denoiser import Denoiser


def random_denoiser(
    vocab_size: int,
    hidden_size: int,
    layers: int,
    block_length: int,
    positions: int,
    tied: bool,
    head_dim: int = 32,
    attention: Literal["sdpa", "flex_attention"] = "sdpa",
    device: str = "cpu",
) -> Denoiser:
    """Make a model with random weights, always the same one on the same kind of device.

    Args:
        vocab_size: Size of the vocabulary: ``w0``, ``w1``, ..., and the special tokens.
        hidden_size: Width, a multiple of ``head_dim``.
        layers: Number of layers.
        block_length: Tokens per block.
        positions: Longest sequence, in tokens.
        tied: Whether input and output embeddings share their weights.
        head_dim: Width of an attention head.
        attention: Implementation of attention.
        device: Device of the model, on which its weights are drawn.
    """
    torch.manual_seed(0)
    words = {f"w{index}": index for index in range(vocab_size - 3)}
    words |= {"<pad>": len(words), "<eos>": len(words) + 1, "<mask>": len(words) + 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
    )
    config = model_config(hidden_size, layers, head_dim, positions, tied)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        with torch.device(device):
            return Denoiser(
                config=config, tokenizer=folder, block_length=block_length, attn_implementation=attention, probe=False
            )


def model_config(hidden_size: int, layers: int, head_dim: int, positions: int, tied: bool) -> dict[str, Any]:
    """Return the configuration of a Qwen3 model, as of transformers; see :func:`random_denoiser`."""
    return {
        "model_type": "qwen3",
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // head_dim,
        "num_key_value_heads": hidden_size // head_dim,
        "head_dim": head_dim,
        "max_position_embeddings": positions,
        "tie_word_embeddings": tied,
    }
