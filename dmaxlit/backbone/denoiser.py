"""Any decoder-only language model of transformers, used as a block-diffusion denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from dmaxlit.backbone.activation_checkpointing import enable_activation_checkpointing
from dmaxlit.backbone.attention import MaskSource, ModelMask, avoid_cudnn, to_model_mask
from dmaxlit.backbone.auxiliary_source import read_auxiliary
from dmaxlit.backbone.compatibility import logit_transform
from dmaxlit.backbone.denoiser_weights import DenoiserWeights
from dmaxlit.backbone.formats.model_folder import AttentionError
from dmaxlit.backbone.hidden_matrices import mark_hidden_matrices
from dmaxlit.backbone.lora import MASK_DELTA
from dmaxlit.backbone.mask_embedding import fit_embeddings
from dmaxlit.backbone.probe import check_behavior
from dmaxlit.backbone.routers import keep_routers_in_float32
from dmaxlit.backbone.sharding import is_sharded, load_shards
from dmaxlit.backbone.soft_embedding import embed_with_soft_tokens
from dmaxlit.backbone.source import BackboneSource
from dmaxlit.backbone.torch_internals import allow_recompilations
from dmaxlit.backbone.transformers_internals import attention_of, cache_argument, embedding_scale
from dmaxlit.errors import UserError
from dmaxlit.tokens import SoftTokens, SpecialTokens

__all__ = ["Denoiser"]

_MOST_SHAPES = 64  # compiled: powers of two of rows, times those of keys; a dozen in training


class Denoiser(DenoiserWeights):
    """A causal language model whose attention mask is replaced by the block-diffusion mask.

    Position i of the output predicts the token at position i (no shift). Neither the mask token nor an id that the
    tokenizer lacks is ever predicted.

    An autoregressive checkpoint can be used: its tokenizer gets a mask token if it has none, whose embedding starts at
    the mean of the others (:mod:`dmaxlit.backbone.mask_embedding`). It predicts the next token, and learns in training
    to predict the masked one.

    Args:
        pretrained: Folder or hub id of a transformers checkpoint, or of a published LLaDA2-MoE or SDAR, which are read
            without their own code; or ``builtin:NAME`` for a model shipped with dmaxlit. Give this or ``config``.
        config: Settings of a fresh model: ``model_type`` and further fields of its transformers config. The vocabulary
            size and special ids come from the tokenizer.
        tokenizer: Folder or hub id of the tokenizer, or the name of a built-in task that has one. Default: the
            one stored with ``pretrained``.
        block_length: Tokens per block of the grid, which starts at position 0 of the sequence. Default: the
            checkpoint's (of an SDAR by its config or name, else 4), else 32.
        attn_implementation: ``sdpa``, ``eager``, or ``flex_attention`` for long sequences on a GPU.
        dtype: Type of the parameters. float32 also for mixed precision, where it holds the master weights. Adapters and
            an auxiliary model are trained in float32 beside parameters of any type.
        max_length: Longest sequence, in tokens, at most the model's number of positions; only whole blocks of it
            count. Default: the length stored in the checkpoint, else the number of positions. A sliding window must be
            at least as long.
        gradient_checkpointing: Keep only each layer's input for the backward pass and recompute the rest: far less
            memory for a third more work.
        defer: Read the weights of ``pretrained`` only when the trainer has set up the devices: under FSDP each rank
            then reads only its shards, and none ever holds the whole model.
        mask_token: Text of the mask token. Default: the tokenizer's mask token, or ``<|mask|>``, which is added if it
            is not a token yet (but not to a checkpoint that was trained with one).
        eos_token: Text of the token that ends a response. Default: the tokenizer's, or the one named in config.json.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions
            (:mod:`dmaxlit.backbone.probe`).
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
        probe: bool = True,
    ) -> None:
        super().__init__()
        source = BackboneSource.resolve(
            pretrained, config, tokenizer, block_length, attn_implementation, dtype, max_length, mask_token, eos_token
        )
        if defer:
            source.check_deferrable()
        self._set_up(source, defer, probe)
        if gradient_checkpointing:
            enable_activation_checkpointing(self.model)

    @classmethod
    def from_source(cls, source: BackboneSource, probe: bool = True) -> Denoiser:
        """Make the denoiser of a source, with its weights.

        Args:
            source: The source.
            probe: As in :class:`Denoiser`.

        Raises:
            UserError: If the model cannot be loaded or built, or is refused.
        """
        denoiser = cls.__new__(cls)
        nn.Module.__init__(denoiser)
        denoiser._set_up(source, probe=probe)
        return denoiser

    def _set_up(self, source: BackboneSource, defer: bool = False, probe: bool = True) -> None:
        self.model = source.empty_model() if defer else _loaded(source, probe)
        self.tokenizer = source.tokenizer
        self.special = SpecialTokens.of(self.tokenizer)
        self.source_metadata, self.base_model = source.metadata, source.base_model
        self.block_length = source.block_length
        self.is_deferred = defer
        self._folder, self._adds_mask = source.folder, source.adds_mask
        keep_routers_in_float32(self.model)
        avoid_cudnn()
        self._limit = source.context_length(self.model)
        self._logit_transform = logit_transform(self.model.config)
        self._cache_argument = cache_argument(self.model.base_model)
        if not defer and source.folder is not None:
            self._fit_embeddings()
        elif self.special.vocab_size > self.vocab_size:
            raise UserError(
                f"backbone.defer: expected a model with a row for each of the {self.special.vocab_size} ids, got "
                f"{self.vocab_size}; `dmaxlit export --model {source.folder} --output FOLDER` adds the rest"
            )
        self._probes = probe
        self.compiles_training = False
        self.lora, self.auxiliary, self.trains_auxiliary = None, None, False
        if source.folder is not None:
            self.auxiliary = read_auxiliary(source.folder, self.tokenizer, self.vocab_size, source.dtype)
        self.register_parameter(MASK_DELTA, None)
        self._prepare_to_train()
        mark_hidden_matrices(self)

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens: the model's number of positions or less, rounded down to whole blocks."""
        return self._limit // self.block_length * self.block_length

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids ``[...]`` as the model does, ``[..., width]``: rows of the table, scaled if it does so."""
        return self._embed(self.model.get_input_embeddings(), ids)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        """Return :meth:`embed` for many calls, none of which looks for the model's layer."""
        if type(self).embed is not Denoiser.embed:
            return self.embed
        return partial(self._embed, self.model.get_input_embeddings())

    def _embed(self, module: nn.Module, ids: Tensor) -> Tensor:
        embedded: Tensor = module(ids)
        if self.mask_delta is None:
            return embedded
        delta = (self.mask_delta * embedding_scale(module)).to(embedded.dtype)
        return torch.where((ids == self.special.mask_id).unsqueeze(-1), embedded + delta, embedded)

    def hidden(
        self,
        allowed: Tensor | MaskSource | ModelMask,
        position_ids: Tensor,
        cache: Cache | None = None,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        soft: SoftTokens | None = None,
        recomputed: bool | None = None,
    ) -> Tensor:
        """Compute the last hidden states of one forward.

        Args:
            allowed: ``[B, Q, K]`` bool attention mask, ``[B, 1, K]`` if all queries of a row attend to the
                same keys, or its source, or what :meth:`model_mask` makes of them.
            position_ids: ``[B, Q]``.
            cache: Cache to read and write, if any.
            input_ids: ``[B, Q]``; this or ``inputs_embeds``.
            inputs_embeds: ``[B, Q, width]``.
            soft: Soft tokens in place of some of ``input_ids``. Gradients reach the embeddings of a sharded model only
                if these are computed here: those of ``inputs_embeds`` may find the weights shared again.
            recomputed: Whether training recomputes layers in the backward pass; None to look for that in all modules.

        Returns:
            ``[B, Q, width]``.
        """
        if input_ids is not None and (soft is not None or self.mask_delta is not None):
            inputs_embeds, input_ids = embed_with_soft_tokens(self.embed, input_ids, soft), None
        if recomputed is None and cache is not None and self.model.training:
            recomputed = self.model.is_activation_checkpointing
        mask = allowed if isinstance(allowed, ModelMask) else self.model_mask(allowed, position_ids.shape[1])
        output = self.model.base_model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=mask.value,
            position_ids=position_ids,
            # This only sets whether to create and return one; layers that are recomputed warn of it.
            use_cache=cache is not None and not (self.model.training and recomputed),
            **{self._cache_argument: cache},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def model_mask(self, allowed: Tensor | MaskSource, num_queries: int) -> ModelMask:
        """Convert a mask to the form that the model's attention takes, for all forwards that share it.

        Args:
            allowed: As in :meth:`hidden`.
            num_queries: Queries of a row (Q).

        Raises:
            UserError: For FlexAttention on a CPU.
        """
        attention = attention_of(self.model)
        if attention == "flex_attention" and self.device.type == "cpu":  # which has no backward pass there
            raise UserError(f"attn_implementation: expected sdpa or eager on a CPU, got {attention!r}")
        if isinstance(allowed, Tensor) and attention == "flex_attention":
            allowed = allowed.expand(-1, num_queries, -1)
        return ModelMask(to_model_mask(allowed, attention, self.model.dtype))

    def compile_training(self) -> None:
        """Compute training views by a compiled :meth:`hidden` from now on; decoding is not affected."""
        allow_recompilations(_MOST_SHAPES)  # dynamo's limit is passed in the third batch
        self.compiles_training = True

    def training_hidden(self, *inputs: Any, **named: Any) -> Tensor:
        """Run :meth:`hidden` as training views do: compiled, if :meth:`compile_training` was called."""
        if self.compiles_training:
            return _compiled(type(self).hidden, None, None)(self, *inputs, **named)
        return self.hidden(*inputs, **named)

    @cached_property
    def compiled_hidden(self) -> Callable[..., Tensor]:
        """:meth:`hidden`, compiled for each shape it meets; on a GPU as CUDA graphs."""
        allow_recompilations(_MOST_SHAPES)
        mode = "reduce-overhead" if self.embedding.is_cuda else None
        return partial(_compiled(type(self).hidden, mode, False), self)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits ``[..., V]`` of hidden states ``[..., width]``, one for each row of the table.

        The mask token gets ``-inf``, and so do the ids that the tokenizer does not have.
        """
        return self._logits(self.model.get_output_embeddings(), hidden)

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Return :meth:`logits` for many calls, none of which looks for the model's layer."""
        if type(self).logits is not Denoiser.logits:
            return self.logits
        return partial(self._logits, self.model.get_output_embeddings())

    def _logits(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        logits: Tensor = layer(hidden)
        if self._logit_transform is not None:
            logits = self._logit_transform(logits)
        # In place, since nothing else refers to them.
        self.special.exclude(logits)
        return logits

    # ---- weights ----------------------------------------------------------------------------------------------------

    def load_deferred(self, device: torch.device) -> None:
        """Read the weights if that was deferred; of a sharded model each rank reads its own slices.

        Args:
            device: Device of the weights.
        """
        if not self.is_deferred:
            return
        assert self._folder is not None, "a fresh model cannot be deferred"
        load_shards(self.model, self._folder, device)
        self.is_deferred = False
        self._fit_embeddings()
        self._prepare_to_train()

    def _prepare_to_train(self) -> None:
        if self._probes and not is_sharded(self):  # its ranks would have to gather the model
            check_behavior(self)
        self.model.train()  # loaded models come in eval mode, which would train without dropout

    def _fit_embeddings(self) -> None:
        is_foreign = not self.source_metadata
        fit_embeddings(self.model, self.special.vocab_size, self.special.mask_id, self._adds_mask, is_foreign)


def _loaded(source: BackboneSource, probe: bool) -> PreTrainedModel:
    try:
        return source.load_model()
    except AttentionError:
        if probe:  # whether the model is of use with the attention that it has: if not, for another reason
            Denoiser.from_source(replace(source, attn_implementation="eager"))
        raise


@cache
def _compiled(hidden: Callable[..., Tensor], mode: str | None, dynamic: bool | None) -> Callable[..., Tensor]:
    # Of a class's function, not of a model's method: a copy of the model must not compute with the original's weights.
    return torch.compile(hidden, dynamic=dynamic, mode=mode)
