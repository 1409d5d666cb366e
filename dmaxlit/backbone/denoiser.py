"""Any decoder-only language model of transformers, used as a block-diffusion denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from dmaxlit.backbone.attention import SUPPORTED_ATTENTION, block_diffusion_mask, to_model_mask
from dmaxlit.backbone.cache import ViewCache
from dmaxlit.backbone.files import read_config
from dmaxlit.backbone.folder import (
    model_from_config,
    model_from_folder,
    read_metadata,
    require_known_type,
    write_folder,
)
from dmaxlit.backbone.hub import fetch
from dmaxlit.backbone.llada2_config import came_from_llada2
from dmaxlit.backbone.routers import keep_routers_in_float32
from dmaxlit.backbone.sdar import block_length_of
from dmaxlit.backbone.tokenizer import ensure_special_tokens, load_tokenizer, name_special_tokens, require_rows
from dmaxlit.errors import UserError
from dmaxlit.tokens import CleanBatch, Role, SpecialIds

__all__ = ["CleanContext", "Denoiser"]

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class CleanContext:
    """What the views of one clean batch attend to.

    Args:
        clean: The clean batch.
        cache: Its keys and values, or None when each view is to run on the doubled sequence.
    """

    def __init__(self, clean: CleanBatch, cache: ViewCache | None) -> None:
        self.clean = clean
        self.cache = cache


class Denoiser(nn.Module):
    """A causal language model whose attention mask is replaced by the block-diffusion mask.

    Position i of the output predicts the token at position i (no shift). The mask token is never predicted.

    Args:
        pretrained: Folder or hub id of a transformers checkpoint, or of a published LLaDA2-MoE or SDAR, which are read
            without their own code; or ``builtin:NAME`` for a model shipped with dmaxlit. Give this or ``config``.
        config: Settings of a fresh model: ``model_type`` and what else its transformers config takes. The vocabulary
            size and special ids come from the tokenizer.
        tokenizer: Folder or hub id of the tokenizer, or the name of a built-in task that has its own. Default: the
            one stored with ``pretrained``.
        block_length: Tokens per block of the grid, which starts at position 0 of the sequence. Default: what the
            checkpoint was exported with or says (SDAR: 4), else 32.
        attn_implementation: ``sdpa`` or ``eager``.
        dtype: Type of the parameters. float32 also for mixed precision, where it holds the master weights.
        mask_token: Text of the token that stands for one not decided yet. Default: the tokenizer's mask token, or
            ``<|mask|>``, which is added if it is no token yet (but not to a checkpoint that was trained with one).
        eos_token: Text of the token that ends a response. Default: the tokenizer's, or what config.json says.
        gradient_checkpointing: Keep no activations inside layers but compute them again in the backward pass.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        block_length: int | None = None,
        attn_implementation: Literal["sdpa", "eager"] = "sdpa",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        mask_token: str | None = None,
        eos_token: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if (pretrained is None) == (config is None):
            raise UserError(
                "backbone: expected either pretrained or config, got " + ("neither" if config is None else "both")
            )
        if attn_implementation not in SUPPORTED_ATTENTION:
            raise UserError(
                f"attn_implementation: expected one of {', '.join(SUPPORTED_ATTENTION)}, got {attn_implementation!r}"
            )
        source = None if pretrained is None else fetch(pretrained)
        if tokenizer is None and source is None:
            raise UserError(
                "backbone.tokenizer: expected a task name, folder or hub id for a model made from config, got none"
            )
        stored = {} if source is None else read_config(source)
        if source is not None:
            require_known_type(stored, str(source))
        self.tokenizer = load_tokenizer(tokenizer or str(source))
        name_special_tokens(self.tokenizer, mask_token, eos_token, stored)
        has_mask = came_from_llada2(stored) or block_length_of(stored) is not None  # trained with one already
        if not has_mask:
            ensure_special_tokens(self.tokenizer)
        self.special = SpecialIds.of(self.tokenizer)
        self.metadata = {} if source is None else read_metadata(source)
        self.block_length = int(block_length or self.metadata.get("block_length") or block_length_of(stored) or 32)
        if self.block_length < 1:
            raise UserError(f"block_length: expected at least 1, got {block_length}")
        torch_dtype: torch.dtype = getattr(torch, dtype)
        self.model: PreTrainedModel
        if source is not None:
            self.model = model_from_folder(source, attn_implementation, torch_dtype)
            if has_mask:
                require_rows(self.tokenizer, self.embedding.shape[0])
            elif len(self.tokenizer) > self.embedding.shape[0]:
                self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=True)
        else:
            self.model = model_from_config(config or {}, self.tokenizer, attn_implementation, torch_dtype)
        _refuse_unsupported(self.model)
        keep_routers_in_float32(self.model)
        if gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        self.model.train()  # what is loaded comes in eval mode, which would train without its dropout
        if self.max_length == 0:
            raise UserError(
                f"block_length: expected at most the model's {self.model.config.max_position_embeddings} positions, "
                f"got {self.block_length}"
            )

    @property
    def max_length(self) -> int:
        """Longest sequence, in tokens: the model's number of positions, rounded down to whole blocks."""
        positions = int(self.model.config.max_position_embeddings)
        return positions // self.block_length * self.block_length

    @property
    def embedding(self) -> Tensor:
        """``[vocab, width]`` input embedding table."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor), "an embedding's weight is a tensor"
        return weight

    def hidden(
        self,
        allowed: Tensor,
        position_ids: Tensor,
        cache: Cache | None = None,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states of one forward.

        Args:
            allowed: ``[B, Q, K]`` bool attention mask.
            position_ids: ``[B, Q]``.
            cache: Cache to read and write, if any.
            input_ids: ``[B, Q]``; this or ``inputs_embeds``.
            inputs_embeds: ``[B, Q, width]``.

        Returns:
            ``[B, Q, width]``.
        """
        config = self.model.config
        mask = to_model_mask(allowed, str(config._attn_implementation), self.model.dtype)
        output = self.model.base_model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` of hidden states ``[..., width]``; the mask token gets ``-inf``."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        logits[..., self.special.mask] = -torch.inf  # in place: nobody else has seen them
        return logits

    def clean_context(self, clean: CleanBatch, doubled: bool = False) -> CleanContext:
        """Run the clean half once, so that views can attend to it.

        Args:
            clean: The clean batch.
            doubled: Skip that, and run each view together with its clean copy instead: the reference form, and the
                only one under gradient checkpointing (which does without caches).
        """
        if doubled or self.model.is_activation_checkpointing:
            return CleanContext(clean, None)
        cache = ViewCache()
        noisy = torch.zeros_like(clean.blocks, dtype=torch.bool)
        allowed = self._valid(clean, block_diffusion_mask(clean.blocks, clean.blocks, noisy, noisy), copies=1)
        self.hidden(allowed, _positions(clean), cache, input_ids=clean.ids)
        return CleanContext(clean, cache)

    def denoise(self, view: Tensor, context: CleanContext) -> Tensor:
        """Hidden states of a corrupted view, ``[B, L, width]``.

        Args:
            view: ``[B, L]`` token ids of the view.
            context: The clean batch it belongs to.
        """
        clean = context.clean
        blocks, length = clean.blocks, clean.ids.shape[1]
        clean_half, noisy_half = torch.zeros_like(blocks, dtype=torch.bool), torch.ones_like(blocks, dtype=torch.bool)
        both = torch.cat([blocks, blocks])
        if context.cache is not None:
            keys_noisy = torch.cat([clean_half, noisy_half])
            allowed = block_diffusion_mask(blocks, both, noisy_half, keys_noisy)
            return self.hidden(self._valid(clean, allowed, 2), _positions(clean), context.cache, input_ids=view)
        noisy = torch.cat([clean_half, noisy_half])
        allowed = block_diffusion_mask(both, both, noisy, noisy)
        ids, positions = torch.cat([clean.ids, view], 1), _positions(clean).repeat(1, 2)
        return self.hidden(self._valid(clean, allowed, 2), positions, input_ids=ids)[:, length:]

    @staticmethod
    def _valid(clean: CleanBatch, allowed: Tensor, copies: int) -> Tensor:
        """Hide pad keys from every other position, ``[B, Q, K]``; a pad still sees itself, so no row is empty."""
        queries, keys = allowed.shape
        real = (clean.roles != Role.PAD).repeat(1, copies)
        itself = torch.eye(keys, dtype=torch.bool, device=allowed.device)[keys - queries :]
        return allowed & real[:, None, :] | itself

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write the folder that :func:`dmaxlit.load` and transformers both read.

        Args:
            folder: Where; replaced as a whole if it exists.
            metadata: What else ``dmaxlit.json`` is to hold.
        """
        write_folder(folder, self.model, self.tokenizer, {"block_length": self.block_length, **metadata})


def _positions(clean: CleanBatch) -> Tensor:
    return torch.arange(clean.ids.shape[1], device=clean.ids.device).expand_as(clean.ids)


def _refuse_unsupported(model: PreTrainedModel) -> None:
    """Refuse what the block-diffusion mask or our logits would silently get wrong."""
    config = model.config
    for name in _LOGIT_TRANSFORMS:
        if getattr(config, name, None) not in (None, 1.0):
            raise UserError(f"backbone: {config.model_type} rescales its logits ({name}), which is not supported")
    if type(model.get_input_embeddings()) is not nn.Embedding:
        raise UserError(f"backbone: {config.model_type} scales its embeddings, which hybrid embeddings do not support")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise UserError(
            f"backbone: expected full attention in every layer, got {', '.join(sorted(kinds))} in {config.model_type}: "
            "a block attends to all earlier ones"
        )
