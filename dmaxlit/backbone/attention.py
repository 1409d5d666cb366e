"""The block-diffusion attention mask, and the forms in which attention implementations take it.

BD3-LM (arXiv 2503.09573, Section 3.2) trains on a noisy and a clean copy of a sequence. With blocks numbered from 0, a
query may attend to a key iff

- the query is noisy and the key is noisy: same block;
- the query is noisy and the key is clean: the key's block comes earlier;
- both are clean: the key's block is not later;
- the query is clean and the key is noisy: never.

:func:`may_attend` states this rule; training and decoding differ only in which of these four quarters they compute
together. Shapes: B batch, Q queries, K keys.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from dmaxlit.errors import UserError

__all__ = ["block_diffusion_mask", "to_model_mask"]

SUPPORTED_ATTENTION = ("sdpa", "eager", "flex_attention")


class MaskSource(Protocol):
    """An attention mask that can be given as a tensor or as a FlexAttention mask."""

    def dense(self) -> Tensor:
        """Return the mask, ``[B, Q, K]`` bool, or ``[1, Q, K]`` for all rows; every query has at least one key."""

    def sparse(self) -> BlockMask:
        """Return the mask for FlexAttention, on a GPU without a dense tensor."""


class CausalMask:
    """The mask of an autoregressive model: a position attends to itself and those before it, alike in all rows.

    Args:
        length: Positions of a row (L).
        device: Where they are.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        self._length, self._device = length, device

    def dense(self) -> Tensor:
        """Return the mask, ``[1, L, L]`` bool."""
        return torch.ones(1, self._length, self._length, dtype=torch.bool, device=self._device).tril()

    def sparse(self) -> BlockMask:
        """Return the mask for FlexAttention."""

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return q >= k

        device, size = self._device, self._length
        return create_block_mask(mask_mod, None, None, size, size, device=str(device), _compile=device.type == "cuda")


class ModelMask(NamedTuple):
    """An attention mask in the form that the model's attention takes; see :meth:`Denoiser.model_mask`."""

    value: Tensor | BlockMask


def may_attend(
    q_block: Tensor,
    k_block: Tensor,
    q_noisy: Tensor,
    k_noisy: Tensor,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
) -> Tensor:
    """Return whether queries may attend to keys, elementwise: a bool tensor of the arguments' broadcast shape.

    Blocks of a group are denoised together (MultiTF, arXiv 2606.29215): a noisy block then attends to the noisy blocks
    of its group up to itself, and to the clean ones of earlier groups.

    Args:
        q_block: Block number of each query.
        k_block: Block number of each key.
        q_noisy: Bool, whether the query belongs to the noisy copy.
        k_noisy: Bool, whether the key belongs to the noisy copy.
        q_group: Group of each query's block; default: each block is one.
        k_group: Group of each key's block.
    """
    if q_group is None or k_group is None:
        to_noisy, is_later = q_noisy & (q_block == k_block), q_block > k_block
    else:
        to_noisy, is_later = q_noisy & (q_group == k_group) & (q_block >= k_block), q_group > k_group
    to_clean = torch.where(q_noisy, is_later, q_block >= k_block)
    return torch.where(k_noisy, to_noisy, to_clean)


def block_diffusion_mask(
    q_block: Tensor,
    k_block: Tensor,
    q_noisy: Tensor,
    k_noisy: Tensor,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
) -> Tensor:
    """Return the mask of all pairs of queries and keys.

    Args:
        q_block: ``[..., Q]`` block number of each query.
        k_block: ``[..., K]`` block number of each key.
        q_noisy: ``[..., Q]`` bool, whether the query belongs to the noisy copy.
        k_noisy: ``[..., K]`` bool, whether the key belongs to the noisy copy.
        q_group: ``[..., Q]`` group of each query's block; default: each block is one.
        k_group: ``[..., K]`` group of each key's block.

    Returns:
        ``[..., Q, K]`` bool, True where attention is allowed.
    """
    q_groups = None if q_group is None else q_group.unsqueeze(-1)
    k_groups = None if k_group is None else k_group.unsqueeze(-2)
    return may_attend(
        q_block.unsqueeze(-1), k_block.unsqueeze(-2), q_noisy.unsqueeze(-1), k_noisy.unsqueeze(-2), q_groups, k_groups
    )


def to_model_mask(allowed: Tensor | MaskSource, attention: str, dtype: torch.dtype) -> Tensor | BlockMask:
    """Convert a mask to the form that an attention implementation of transformers takes.

    SDPA takes booleans, and converts them to additive numbers again in every layer. On a CPU it gets the numbers. On a
    GPU it gets booleans all the same: numbers of another dtype than the scores' are refused or misread there, depending
    on the kernel. Eager attention *adds* the mask to the scores, where a boolean would be silently wrong. FlexAttention
    takes a :class:`BlockMask`.

    Args:
        allowed: ``[B, Q, K]`` bool, or its source; every query must have at least one key. ``[B, 1, K]`` if all
            queries of a row attend to the same keys, but not for FlexAttention.
        attention: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Dtype of the scores.

    Returns:
        ``[B, 1, Q, K]``, or a :class:`BlockMask`.

    Raises:
        UserError: For another implementation.
    """
    if attention == "flex_attention":
        return sparse_mask(allowed) if isinstance(allowed, Tensor) else allowed.sparse()
    mask = (allowed if isinstance(allowed, Tensor) else allowed.dense()).unsqueeze(1)
    if attention == "sdpa" and mask.device.type != "cpu":
        return mask
    if attention in ("sdpa", "eager"):
        lowest = -torch.inf if attention == "sdpa" else torch.finfo(dtype).min
        if attention == "sdpa":  # accepts a float32 mask whatever the dtype of the scores
            dtype = torch.promote_types(dtype, torch.float32)
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, lowest)
    raise UserError(f"attn_implementation: expected one of {', '.join(SUPPORTED_ATTENTION)}, got {attention!r}")


def avoid_cudnn() -> None:
    """Let SDPA use no kernel of cuDNN in this process.

    With a mask, its gradients may be NaN (pytorch 196678), and it prepares a kernel for every new shape.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def sparse_mask(allowed: Tensor) -> BlockMask:
    """Convert a dense mask, ``[B, Q, K]`` bool, for FlexAttention."""

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return allowed[b, q, k]

    batch, queries, keys = allowed.shape
    return create_block_mask(mask_mod, batch, None, queries, keys, device=str(allowed.device))
