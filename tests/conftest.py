"""Shared small models and batches."""

import contextlib
import gc
import json
import os
import resource
import signal

# Before torch is imported, here and in the processes that tests start: models are tiny, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # training in this process would take every GPU of the machine

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dmaxlit.backbone import Denoiser
from dmaxlit.tokens import CleanBatch, Role, SpecialTokens
from tests.processes import Processes

TINY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def pytest_collection_finish():
    gc.freeze()  # all that was imported
    gc.enable()


@contextlib.contextmanager
def limited_files(size):
    """Limit files of this process to ``size`` bytes: writing more fails in the system, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def make_denoiser(
    block_length=8,
    attn_implementation="sdpa",
    seed=0,
    sharpen=1.0,
    defer=False,
    recompute=False,
    dtype="float32",
    **config,
):
    """Build a tiny random denoiser; ``sharpen`` scales the embedding, which makes predictions less uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser = Denoiser(
            config={**TINY, **config},
            tokenizer="chain",
            block_length=block_length,
            attn_implementation=attn_implementation,
            dtype=dtype,
            defer=defer,
            gradient_checkpointing=recompute,
        )
    with torch.no_grad():
        denoiser.embedding.mul_(sharpen)
    return denoiser


def write_tokenizer(folder, vocabulary, **special):
    """Write a tokenizer of words, one of them ``<eos>``, and return its folder."""
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=min(vocabulary, key=vocabulary.get)))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", **special).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def denoiser():
    return make_denoiser()


def make_batch(
    prompt_lengths=(3, 10, 8), response_lengths=(13, 6, 16), block_length=8, seed=0, special=None, fill=False
):
    """Make a clean batch of random tokens, padded on the right; ``fill`` fills the last block of each row with EOS."""
    special = special or SpecialTokens(mask_id=37, eos_id=36, pad_id=35, vocab_size=38)
    lengths = [p + r for p, r in zip(prompt_lengths, response_lengths, strict=True)]
    width = -(-max(lengths) // block_length) * block_length
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 35, (len(lengths), width), generator=generator)
    roles = torch.full_like(ids, Role.PAD)
    for row, (prompt, length) in enumerate(zip(prompt_lengths, lengths, strict=True)):
        if fill:
            end = -(-length // block_length) * block_length
            ids[row, length:end], roles[row, length:end] = special.eos_id, Role.FILL
        roles[row, :length] = Role.RESPONSE
        roles[row, :prompt] = Role.PROMPT
    return CleanBatch(torch.where(roles == Role.PAD, special.pad_id, ids), roles, block_length, special)


@pytest.fixture
def clean():
    return make_batch()


@pytest.fixture
def write_rows(tmp_path):
    def write(rows, name="corpus.jsonl"):
        path = tmp_path / name
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
        )
        return str(path)

    return write


@pytest.fixture
def no_group_is_left():
    """Leave the process group that a strategy joins, and its settings in the environment."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):  # such as the port, which processes of other tests would take over
        del os.environ[name]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def processes():
    """Start processes in which everything is imported already."""
    started = Processes()
    yield started
    started.close()


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the pictures of an evaluation empty: to draw them takes longer than to decode a few prompts."""
    from dmaxlit.evaluation.curve_figure import PICTURES  # here, as not all tests need matplotlib

    def save(figure, path):
        for suffix in PICTURES:
            path.with_name(path.name + suffix).touch()

    monkeypatch.setattr("dmaxlit.evaluation.report.curve_figure", lambda *_: None)
    monkeypatch.setattr("dmaxlit.evaluation.report.save_pictures", save)
