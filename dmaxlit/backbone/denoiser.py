"""Any decoder-only language model of transformers, used as a block-diffusion denoiser."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from dmaxlit.backbone.activation_checkpointing import enable_activation_checkpointing
from dmaxlit.backbone.attention import SUPPORTED_ATTENTION, MaskSource, to_model_mask
from dmaxlit.backbone.compatibility import logit_transform, refuse_unsupported
from dmaxlit.backbone.formats.hub import fetch
from dmaxlit.backbone.formats.model_folder import (
    empty_model_from_folder,
    model_from_config,
    model_from_folder,
    read_metadata,
    refuse_to_defer,
    require_known_type,
    was_trained_with_masks,
)
from dmaxlit.backbone.formats.sdar import block_length_of
from dmaxlit.backbone.formats.weight_files import read_config
from dmaxlit.backbone.lora import MASK_DELTA, LoraSettings
from dmaxlit.backbone.routers import keep_routers_in_float32
from dmaxlit.backbone.tokenizer import ensure_special_tokens, load_tokenizer, name_special_tokens, require_rows
from dmaxlit.backbone.transformers_internals import cache_argument
from dmaxlit.backbone.weights import KeepsWeights
from dmaxlit.errors import UserError
from dmaxlit.tokens import SpecialTokens

__all__ = ["Denoiser"]

_MOST_SHAPES = 64  # compiled: powers of two of rows, times those of keys


class Denoiser(KeepsWeights, nn.Module):
    """A causal language model whose attention mask is replaced by the block-diffusion mask.

    Position i of the output predicts the token at position i (no shift). The mask token is never predicted.

    An autoregressive checkpoint will do: its tokenizer gets a mask token if it has none, whose embedding starts at the
    mean of the others (:mod:`dmaxlit.backbone.mask_embedding`). It predicts the next token, and has to learn to predict
    the masked one by training.

    Args:
        pretrained: Folder or hub id of a transformers checkpoint, or of a published LLaDA2-MoE or SDAR, which are read
            without their own code; or ``builtin:NAME`` for a model shipped with dmaxlit. Give this or ``config``.
        config: Settings of a fresh model: ``model_type`` and what else its transformers config takes. The vocabulary
            size and special ids come from the tokenizer.
        tokenizer: Folder or hub id of the tokenizer, or the name of a built-in task that has its own. Default: the
            one stored with ``pretrained``.
        block_length: Tokens per block of the grid, which starts at position 0 of the sequence. Default: what the
            checkpoint was exported with or says (SDAR: 4), else 32.
        attn_implementation: ``sdpa``, ``eager``, or ``flex_attention`` for long sequences on a GPU.
        dtype: Type of the parameters. float32 also for mixed precision, where it holds the master weights.
        max_length: Longest sequence, in tokens; only whole blocks of it count. Default: what the checkpoint was
            exported with, else the model's number of positions. A sliding window must be at least as long.
        gradient_checkpointing: Keep only each layer's input for the backward pass and compute the rest again: far less
            memory for a third more work.
        defer: Read the weights of ``pretrained`` only once the trainer has decided where they go: under FSDP each rank
            then reads its own part, and none ever holds the whole.
        mask_token: Text of the token that stands for one not decided yet. Default: the tokenizer's mask token, or
            ``<|mask|>``, which is added if it is no token yet (but not to a checkpoint that was trained with one).
        eos_token: Text of the token that ends a response. Default: the tokenizer's, or what config.json says.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        block_length: int | None = None,
        attn_implementation: Literal["sdpa", "eager", "flex_attention"] = "sdpa",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        defer: bool = False,
        mask_token: str | None = None,
        eos_token: str | None = None,
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
        has_mask = was_trained_with_masks(stored)
        self._adds_mask = not has_mask and bool(ensure_special_tokens(self.tokenizer))
        self.special = SpecialTokens.of(self.tokenizer)
        self.metadata = {} if source is None else read_metadata(source)
        self.block_length = int(block_length or self.metadata.get("block_length") or block_length_of(stored) or 32)
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
            refuse_to_defer(source, stored)
            self.model = empty_model_from_folder(source, stored, attn_implementation, torch_dtype)
        else:
            self.model = model_from_folder(source, attn_implementation, torch_dtype)
        if has_mask:
            require_rows(self.tokenizer, self.embedding.shape[0])
        keep_routers_in_float32(self.model)
        self._limit = min(int(given or self.model.config.max_position_embeddings), self._positions)
        if self.max_length < 1:
            raise UserError(
                f"block_length: expected at most the {self._limit} positions of the model or max_length, "
                f"got {self.block_length}"
            )
        refuse_unsupported(self.model, self.max_length, attn_implementation)
        self._cap = logit_transform(self.model.config)
        self._cache_argument = cache_argument(self.model.base_model)
        if not defer and source is not None:
            self._fit_embeddings()
        elif len(self.tokenizer) > self.embedding.shape[0]:
            raise UserError(
                f"backbone.defer: expected a model with a row for each of the {len(self.tokenizer)} tokens, got "
                f"{self.embedding.shape[0]}; `dmaxlit export --checkpoint {pretrained} --output FOLDER` adds the rest"
            )
        if gradient_checkpointing:
            enable_activation_checkpointing(self.model)
        self.model.train()  # what is loaded comes in eval mode, which would train without its dropout
        self._compiles_training = False
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
    def vocab_size(self) -> int:
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
        return torch.where((ids == self.special.mask_id).unsqueeze(-1), embedded + delta, embedded)

    def hidden(
        self,
        allowed: Tensor | MaskSource,
        position_ids: Tensor,
        cache: Cache | None = None,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states of one forward.

        Args:
            allowed: ``[B, Q, K]`` bool attention mask, ``[B, 1, K]`` if a row's queries see the same, or what gives it.
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
        attention = str(config._attn_implementation)
        if attention == "flex_attention" and self.device.type == "cpu":  # which has no backward pass there
            raise UserError(f"attn_implementation: expected sdpa or eager on a CPU, got {attention!r}")
        if isinstance(allowed, Tensor) and attention == "flex_attention":
            allowed = allowed.expand(-1, position_ids.shape[1], -1)
        mask = to_model_mask(allowed, attention, self.model.dtype)
        output = self.model.base_model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            position_ids=position_ids,
            # It is only about making and returning one; layers that are computed again warn of it.
            use_cache=cache is not None and not self.model.is_activation_checkpointing,
            **{self._cache_argument: cache},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def compile_training(self) -> None:
        """From now on compute training views by a compiled :meth:`hidden`; decoding stays as it is."""
        self._compiles_training = True

    def training_hidden(self, *inputs: Any, **named: Any) -> Tensor:
        """:meth:`hidden`, as training views compute it."""
        if self._compiles_training:
            return _compiled(None, None)(self, *inputs, **named)
        return self.hidden(*inputs, **named)

    @cached_property
    def compiled_hidden(self) -> Callable[..., Tensor]:
        """:meth:`hidden`, compiled for each shape it meets; on a GPU as CUDA graphs."""
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, _MOST_SHAPES)
        return partial(_compiled("reduce-overhead" if self.embedding.is_cuda else None, False), self)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` of hidden states ``[..., width]``; the mask token gets ``-inf``."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        if self._cap is not None:
            logits = self._cap(logits)
        logits[..., self.special.mask_id] = -torch.inf  # in place: nobody else has seen them
        return logits


@cache
def _compiled(mode: str | None, dynamic: bool | None) -> Callable[..., Tensor]:
    # Of the function, not of a model's method: a copy of the model must not compute with the original's weights.
    return torch.compile(Denoiser.hidden, dynamic=dynamic, mode=mode)
