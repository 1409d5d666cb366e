"""The block-diffusion attention mask: the one place that says who may attend to whom.

BD3-LM (arXiv 2503.09573, Section 3.2) trains on a noisy and a clean copy of a sequence. With blocks numbered from 0, a
query may attend to a key iff

- the query is noisy and the key is noisy: same block;
- the query is noisy and the key is clean: the key's block comes earlier;
- both are clean: the key's block is not later;
- the query is clean and the key is noisy: never.

Training and decoding differ only in which of these four quarters they compute together. Shapes: B batch, Q queries,
K keys.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from dmaxlit.errors import UserError

__all__ = ["SUPPORTED_ATTENTION", "MaskSource", "block_diffusion_mask", "sparse_mask", "to_model_mask"]

SUPPORTED_ATTENTION = ("sdpa", "eager", "flex_attention")


class MaskSource(Protocol):
    """Who may attend to whom, told as a tensor or position by position."""

    def dense(self) -> Tensor:
        """``[B, Q, K]`` bool; every query has at least one key."""

    def sparse(self) -> BlockMask:
        """The same for FlexAttention, without a dense tensor on a GPU."""


def block_diffusion_mask(q_block: Tensor, k_block: Tensor, q_noisy: Tensor, k_noisy: Tensor) -> Tensor:
    """Who may attend to whom.

    Args:
        q_block: ``[..., Q]`` block number of each query.
        k_block: ``[..., K]`` block number of each key.
        q_noisy: ``[..., Q]`` bool, the query belongs to the noisy copy.
        k_noisy: ``[..., K]`` bool, the key belongs to the noisy copy.

    Returns:
        ``[..., Q, K]`` bool, True where attention is allowed.
    """
    q, k = q_block.unsqueeze(-1), k_block.unsqueeze(-2)
    q_noisy, k_noisy = q_noisy.unsqueeze(-1), k_noisy.unsqueeze(-2)
    to_noisy = q_noisy & (q == k)
    to_clean = torch.where(q_noisy, q > k, q >= k)
    return torch.where(k_noisy, to_noisy, to_clean)


def to_model_mask(allowed: Tensor | MaskSource, attention: str, dtype: torch.dtype) -> Tensor | BlockMask:
    """A mask in the form that an attention implementation of transformers takes.

    SDPA takes booleans, which on a CPU it turns into numbers to be added, in every layer anew: there it gets those.
    Eager attention *adds* the mask to the scores, where a boolean would be silently wrong. FlexAttention takes a
    :class:`BlockMask`.

    Args:
        allowed: ``[B, Q, K]`` bool, or what gives it; every query must have at least one key. ``[B, 1, K]`` if all
            queries of a row see the same, but not for FlexAttention.
        attention: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Type of the scores.

    Returns:
        ``[B, 1, Q, K]``, or a mask of blocks.
    """
    if attention == "flex_attention":
        return sparse_mask(allowed) if isinstance(allowed, Tensor) else allowed.sparse()
    mask = (allowed if isinstance(allowed, Tensor) else allowed.dense()).unsqueeze(1)
    if attention == "sdpa" and mask.device.type != "cpu":
        return mask
    if attention in ("sdpa", "eager"):
        never = -torch.inf if attention == "sdpa" else torch.finfo(dtype).min
        if attention == "sdpa":  # takes float32 for every type of scores, but its own for no other
            dtype = torch.promote_types(dtype, torch.float32)
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, never)
    raise UserError(f"attn_implementation: expected one of {', '.join(SUPPORTED_ATTENTION)}, got {attention!r}")


def sparse_mask(allowed: Tensor) -> BlockMask:
    """A dense mask, ``[B, Q, K]`` bool, for FlexAttention."""

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return allowed[b, q, k]

    batch, queries, keys = allowed.shape
    return create_block_mask(visible, batch, None, queries, keys, device=str(allowed.device))
