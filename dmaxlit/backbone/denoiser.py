"""Any decoder-only language model of transformers, used as a block-diffusion denoiser."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from dmaxlit.backbone.attention import SUPPORTED_ATTENTION, block_diffusion_mask, to_model_mask
from dmaxlit.backbone.cache import ViewCache
from dmaxlit.backbone.folder import empty_model_from_folder, model_from_config, model_from_folder, read_metadata
from dmaxlit.backbone.lora import MASK_DELTA, LoraSettings
from dmaxlit.backbone.sharding import is_sharded
from dmaxlit.backbone.support import logit_transform, refuse_unsupported
from dmaxlit.backbone.tokenizer import ensure_special_tokens, load_tokenizer, resolve_folder
from dmaxlit.backbone.weights import KeepsWeights
from dmaxlit.errors import UserError
from dmaxlit.tokens import CleanBatch, Role, SpecialIds

__all__ = ["CleanContext", "Denoiser"]


class CleanContext:
    """What the views of one clean batch attend to.

    Args:
        clean: The clean batch.
        cache: Its keys and values, or None when each view is to run on the doubled sequence.
        anchor: A sum over the clean half's hidden states. FSDP brings a layer's weights back for the backward pass when
            a gradient reaches its output; the last layer's keys and values are used, its output is not. So views add
            the anchor times 0.
    """

    def __init__(self, clean: CleanBatch, cache: ViewCache | None, anchor: Tensor | None = None) -> None:
        self.clean = clean
        self.cache = cache
        self.anchor = anchor


class Denoiser(KeepsWeights, nn.Module):
    """A causal language model whose attention mask is replaced by the block-diffusion mask.

    Position i of the output predicts the token at position i (no shift). The mask token is never predicted.

    An autoregressive checkpoint will do: its tokenizer gets a mask token if it has none, whose embedding starts at the
    mean of the others (:mod:`dmaxlit.backbone.mask_embedding`). It predicts the next token, and has to learn to predict
    the masked one by training.

    Args:
        pretrained: Folder or hub id of a transformers checkpoint, or ``builtin:NAME`` for a model shipped with
            dmaxlit. Give this or ``config``.
        config: Settings of a fresh model: ``model_type`` and what else its transformers config takes. The vocabulary
            size and special ids come from the tokenizer.
        tokenizer: Folder or hub id of the tokenizer, or the name of a built-in task that has its own. Default: the
            one stored with ``pretrained``.
        block_length: Tokens per block of the grid, which starts at position 0 of the sequence. Default: what the
            checkpoint was exported with, else 32.
        attn_implementation: ``sdpa`` or ``eager``.
        dtype: Type of the parameters. float32 also for mixed precision, where it holds the master weights.
        max_length: Longest sequence, in tokens; only whole blocks of it count. Default: what the checkpoint was
            exported with, else the model's number of positions. A sliding window must be at least as long.
        gradient_checkpointing: Keep only each layer's input for the backward pass and compute the rest again: far less
            memory for a third more work. The clean half is then computed with every view.
        defer: Read the weights of ``pretrained`` only once the trainer has decided where they go: under FSDP each rank
            then reads its own part, and none ever holds the whole.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        block_length: int | None = None,
        attn_implementation: Literal["sdpa", "eager"] = "sdpa",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        defer: bool = False,
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
        source = None if pretrained is None else resolve_folder(pretrained)
        if tokenizer is None and source is None:
            raise UserError(
                "backbone.tokenizer: expected a task name, folder or hub id for a model made from config, got none"
            )
        self.tokenizer = load_tokenizer(tokenizer or str(source))
        self._adds_mask = bool(ensure_special_tokens(self.tokenizer))
        self.special = SpecialIds.of(self.tokenizer)
        self.metadata = {} if source is None else read_metadata(source)
        self.block_length = int(block_length or self.metadata.get("block_length", 32))
        if self.block_length < 1:
            raise UserError(f"block_length: expected at least 1, got {block_length}")
        given: int | None = max_length or self.metadata.get("max_length")
        self._source, self.is_deferred = source, defer
        torch_dtype: torch.dtype = getattr(torch, dtype)
        self.model: PreTrainedModel
        if source is None:
            if defer:
                raise UserError("backbone.defer: expected a pretrained model, whose weights can be read later")
            self.model = model_from_config(config or {}, self.tokenizer, attn_implementation, torch_dtype)
        elif defer:
            self.model = empty_model_from_folder(source, attn_implementation, torch_dtype)
        else:
            self.model = model_from_folder(source, attn_implementation, torch_dtype)
        self._limit = min(int(given or self.model.config.max_position_embeddings), self._positions)
        if self.max_length < 1:
            raise UserError(
                f"block_length: expected at most the {self._limit} positions of the model or max_length, "
                f"got {self.block_length}"
            )
        refuse_unsupported(self.model, self.max_length, attn_implementation)
        self._cap = logit_transform(self.model.config)
        if not defer and source is not None:
            self._fit_embeddings()
        elif len(self.tokenizer) > self.embedding.shape[0]:
            raise UserError(
                f"backbone.defer: expected a model with a row for each of the {len(self.tokenizer)} tokens, got "
                f"{self.embedding.shape[0]}; `dmaxlit export --checkpoint {pretrained} --output FOLDER` adds the rest"
            )
        if gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        self.model.train()  # what is loaded comes in eval mode, which would train without its dropout
        self.lora: LoraSettings | None = None
        self.mask_delta: nn.Parameter | None
        self.register_parameter(MASK_DELTA, None)

    @property
    def _positions(self) -> int:
        return int(self.model.config.max_position_embeddings)

    @property
    def max_length(self) -> int:
        """Longest sequence, in tokens: the model's number of positions or less, rounded down to whole blocks."""
        return self._limit // self.block_length * self.block_length

    @property
    def num_tokens(self) -> int:
        """Rows of the embedding table."""
        return int(self.embedding.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def embedding(self) -> Tensor:
        """``[vocab, width]`` input embedding table, as it is stored; see :meth:`embed`."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor), "an embedding's weight is a tensor"
        return weight

    def embed(self, ids: Tensor) -> Tensor:
        """What the model is fed for token ids ``[...]``, ``[..., width]``: rows of the table, scaled if it does so."""
        module = self.model.get_input_embeddings()
        embedded: Tensor = module(ids)
        if self.mask_delta is None:
            return embedded
        delta = self.mask_delta * getattr(module, "scalar_embed_scale", 1.0)
        return torch.where((ids == self.special.mask).unsqueeze(-1), embedded + delta, embedded)

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
        if self.mask_delta is not None and input_ids is not None:
            inputs_embeds, input_ids = self.embed(input_ids), None
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
        if self._cap is not None:
            logits = self._cap(logits)
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
        hidden = self.hidden(allowed, _positions(clean), cache, input_ids=clean.ids)
        return CleanContext(clean, cache, hidden.sum() if is_sharded(self) else None)

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
            hidden = self.hidden(self._valid(clean, allowed, 2), _positions(clean), context.cache, input_ids=view)
            return hidden if context.anchor is None else hidden + 0 * context.anchor
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


def _positions(clean: CleanBatch) -> Tensor:
    return torch.arange(clean.ids.shape[1], device=clean.ids.device).expand_as(clean.ids)
