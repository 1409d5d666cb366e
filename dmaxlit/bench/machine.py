"""What the benchmarks of speed share: models without training, processes of their own, the machine's name."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

from dmaxlit.backbone.denoiser import Denoiser

__all__ = ["alone", "describe", "random_denoiser"]

T = TypeVar("T")


def alone(function: Callable[..., T], *arguments: object) -> T:
    """``function(*arguments)`` in a new process, which no other measurement has warmed or filled."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def describe(device: str) -> dict[str, object]:
    """The machine, for the results' file."""
    is_gpu = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name() if is_gpu else f"cpu, {multiprocessing.cpu_count()} cores"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def random_denoiser(
    vocab_size: int, hidden_size: int, layers: int, block_length: int, positions: int, tied: bool
) -> Denoiser:
    """A model with random weights and heads of 32, always the same; its tokens are ``w0``, ``w1``, ..."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {f"w{number}": number for number in range(vocab_size - 3)}
    words |= {"<pad>": len(words), "<eos>": len(words) + 1, "<mask>": len(words) + 2}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", mask_token="<mask>"
    )
    config = {
        "model_type": "qwen3",
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // 32,
        "num_key_value_heads": hidden_size // 32,
        "head_dim": 32,
        "max_position_embeddings": positions,
        "tie_word_embeddings": tied,
    }
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return Denoiser(config=config, tokenizer=folder, block_length=block_length)
