"""Two published procedures for batches as contestants of the engine: dllm's, and diffusers' pipeline.

Both decode a batch in step: every prompt of it is at the same block, behind its own padding on the left.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.errors import UserError


def dllm_loop(
    denoiser: Denoiser, prompts: list[list[int]], max_new_tokens: int, tokens_per_step: int
) -> list[list[int]]:
    """Decode as the BD3LM sampler of dllm does (ZHZisZZ/dllm, ``dllm/core/samplers/bd3lm.py``).

    Prompts are padded on the left to whole blocks. For each block the whole prefix is computed anew, with the logits of
    all its positions; each step then runs the block on a copy of that cache.

    Args:
        denoiser: The model.
        prompts: Token ids of each prompt, without pad tokens.
        max_new_tokens: Tokens to generate; whole blocks are decoded, and the last one is cut off.
        tokens_per_step: Tokens committed at each forward, the most confident first.

    Returns:
        The generated tokens of each prompt. EOS is not special.
    """
    length, mask = denoiser.block_length, denoiser.special.mask_id
    ids, is_token = _padded_left(denoiser, prompts)
    begin = ids.shape[1]
    for _ in range(-(-max_new_tokens // length)):
        cache = DynamicCache()
        prefix = denoiser.hidden(_staircase(is_token, length), _positions(is_token), cache, input_ids=ids)
        denoiser.logits(prefix)
        block = ids.new_full((len(ids), length), mask)
        is_token = torch.cat([is_token, torch.ones_like(block, dtype=torch.bool)], 1)
        allowed = _staircase(is_token, length)[:, -length:]
        positions = _positions(is_token)[:, -length:]
        while (block == mask).any():
            hidden = denoiser.hidden(allowed, positions, copy.deepcopy(cache), input_ids=block)
            block = _commit_rows(block, denoiser.logits(hidden), mask, tokens_per_step)
        ids = torch.cat([ids, block], 1)
    generated: list[list[int]] = ids[:, begin : begin + max_new_tokens].tolist()
    return generated


def diffusers_pipeline(
    denoiser: Denoiser, prompts: list[list[int]], max_new_tokens: int, tokens_per_step: int
) -> list[list[int]]:
    """Decode with the ``LLaDA2Pipeline`` of diffusers, which has no cache; arguments and result of :func:`dllm_loop`.

    Raises:
        UserError: If diffusers is not installed.
    """
    try:
        from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
    except ImportError as error:
        raise UserError("contestant 'diffusers' needs the diffusers library: pip install -e '.[dev]'") from error
    ids, is_token = _padded_left(denoiser, prompts)
    make_pipeline: Any = LLaDA2Pipeline
    make_scheduler: Any = BlockRefinementScheduler
    pipeline = make_pipeline(_CausalModel(denoiser), make_scheduler(), None)
    pipeline.set_progress_bar_config(disable=True)
    (sequences, _) = pipeline(
        input_ids=ids,
        attention_mask=is_token.long(),
        gen_length=-(-max_new_tokens // denoiser.block_length) * denoiser.block_length,
        block_length=denoiser.block_length,
        num_inference_steps=-(-denoiser.block_length // tokens_per_step),
        threshold=2.0,  # never reached, so that each step commits its share of the block
        editing_threshold=None,
        eos_early_stop=False,
        mask_token_id=denoiser.special.mask_id,
        output_type="seq",
        return_dict=False,
    )
    generated: list[list[int]] = sequences[:, :max_new_tokens].tolist()
    return generated


class _CausalModel(nn.Module):
    """The denoiser as the model that the pipeline expects: block-causal, with the logits of all positions."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.embedding.dtype

    def forward(self, ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        allowed = _staircase(attention_mask.bool(), self.denoiser.block_length)
        hidden = self.denoiser.hidden(allowed, position_ids, input_ids=ids)
        return SimpleNamespace(logits=self.denoiser.logits(hidden))


def _padded_left(denoiser: Denoiser, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return the prompts padded on the left to whole blocks, ``[R, L]``, and which positions are tokens."""
    block = denoiser.block_length
    length = -(-max(len(prompt) for prompt in prompts) // block) * block
    ids = [[denoiser.special.pad_id] * (length - len(prompt)) + prompt for prompt in prompts]
    is_token = [[False] * (length - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=denoiser.device), torch.tensor(is_token, device=denoiser.device)


def _staircase(is_token: Tensor, block_length: int) -> Tensor:
    """Return which query attends to which key, ``[R, L, L]`` bool; padding attends to itself, so that it has a key."""
    blocks = torch.arange(is_token.shape[1], device=is_token.device) // block_length
    allowed = (blocks[None, :] <= blocks[:, None]) & is_token[:, None, :]
    return allowed | torch.eye(len(blocks), dtype=torch.bool, device=is_token.device)


def _positions(is_token: Tensor) -> Tensor:
    """Return the position of each token behind the padding, ``[R, L]``."""
    return (is_token.cumsum(1) - 1).clamp(min=0)


def _commit_rows(block: Tensor, logits: Tensor, mask: int, count: int) -> Tensor:
    """Return the block with the most confident predictions at its masks, row by row."""
    tokens = logits.argmax(-1)
    confidence = logits.softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    confidence = torch.where(block == mask, confidence, -torch.inf)
    commit = torch.zeros_like(block, dtype=torch.bool)
    for row in range(len(block)):
        masks = int((block[row] == mask).sum())
        commit[row, confidence[row].topk(min(count, masks)).indices] = True
    return torch.where(commit, tokens, block)
