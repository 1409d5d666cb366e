"""A backbone's settings, resolved to everything they refer to except the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmaxlit.backbone.attention import SUPPORTED_ATTENTION
from dmaxlit.backbone.compatibility import check_finite, refuse_unsupported
from dmaxlit.backbone.formats.config_checks import require_language_model, require_valid_config
from dmaxlit.backbone.formats.generation_config import read_generation_config
from dmaxlit.backbone.formats.hub import fetch, is_local
from dmaxlit.backbone.formats.metadata import read_metadata
from dmaxlit.backbone.formats.model_folder import (
    empty_model_from_folder,
    model_from_config,
    model_from_folder,
    refuse_to_defer,
    was_trained_with_masks,
)
from dmaxlit.backbone.formats.sdar import block_length_of
from dmaxlit.backbone.formats.weight_files import read_config
from dmaxlit.backbone.mask_embedding import embedding_table
from dmaxlit.backbone.tokenizer import (
    ensure_special_tokens,
    load_tokenizer,
    name_special_tokens,
    require_rows,
    stored_tokenizer,
)
from dmaxlit.errors import UserError, check_at_least, check_choice

_DTYPES = ("float32", "bfloat16", "float16")
_DEFAULT_BLOCK_LENGTH = 32


@dataclass(frozen=True)
class BackboneSource:
    """The settings of a :class:`~dmaxlit.backbone.denoiser.Denoiser`, resolved.

    Training loads the weights (:meth:`load_model`); ``dmaxlit plan`` and deferred loading take the same model on the
    meta device (:meth:`empty_model`).

    Args:
        folder: Folder of the checkpoint, or None for a fresh model.
        config: Content of the checkpoint's ``config.json``, or the settings of the fresh model.
        metadata: Content of the checkpoint's ``dmaxlit.json``; empty if there is none.
        tokenizer: Tokenizer with a mask token and an EOS token.
        adds_mask: Whether the mask token was missing and has been added.
        block_length: Tokens per block.
        max_length: Longest sequence: the setting, else the checkpoint's stored value; None for the model's own limit.
        attn_implementation: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Type of the parameters.
        weights: The checkpoint's weights, if they are in memory and not in the folder.
        base_model: What the model started from: hub id or ``builtin:NAME``, if known.
    """

    folder: Path | None
    config: dict[str, Any]
    metadata: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    adds_mask: bool
    block_length: int
    max_length: int | None
    attn_implementation: str
    dtype: torch.dtype
    weights: dict[str, Tensor] | None = None
    base_model: str | None = None

    @classmethod
    def resolve(
        cls,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        block_length: int | None = None,
        attn_implementation: str = "sdpa",
        dtype: str = "float32",
        max_length: int | None = None,
        mask_token: str | None = None,
        eos_token: str | None = None,
        weights: bool = True,
    ) -> BackboneSource:
        """Find the checkpoint, read its config and metadata, and load the tokenizer.

        ``weights`` says whether to download them from the hub too. All other arguments are those of
        :class:`~dmaxlit.backbone.denoiser.Denoiser`.

        Raises:
            UserError: If a setting is refused, or a file cannot be read.
        """
        if (pretrained is None) == (config is None):
            raise UserError(
                "backbone: expected either pretrained or config, got " + ("neither" if config is None else "both")
            )
        if attn_implementation not in SUPPORTED_ATTENTION:
            raise UserError(
                f"attn_implementation: expected one of {', '.join(SUPPORTED_ATTENTION)}, got {attn_implementation!r}"
            )
        # First what is small: a model that is refused for its config is not downloaded.
        folder = None if pretrained is None else fetch(pretrained, weights=False)
        stored = {} if folder is None else read_config(folder)
        if pretrained is not None and folder is not None:
            require_language_model(stored, pretrained)
            require_valid_config(folder, stored)
            if weights:
                folder = fetch(pretrained)
        if tokenizer:
            loaded_tokenizer = load_tokenizer(tokenizer)
        elif folder is not None:
            loaded_tokenizer = stored_tokenizer(folder)
        else:
            raise UserError(
                "backbone.tokenizer: expected a task name, folder or hub id for a model created from config, got none"
            )
        name_special_tokens(loaded_tokenizer, mask_token, eos_token, stored)
        adds_mask = not was_trained_with_masks(stored) and bool(ensure_special_tokens(loaded_tokenizer))
        metadata = {} if folder is None else read_metadata(folder)
        check_at_least(1, block_length=block_length, max_length=max_length)
        check_choice("dtype", dtype, _DTYPES)
        length = block_length or metadata.get("block_length")
        if length is None and pretrained is not None:
            length = block_length_of(stored, pretrained)
        return cls(
            folder=folder,
            config=stored if folder is not None else dict(config or {}),
            metadata=metadata,
            tokenizer=loaded_tokenizer,
            adds_mask=adds_mask,
            block_length=length or _DEFAULT_BLOCK_LENGTH,
            max_length=max_length or metadata.get("max_length"),
            attn_implementation=attn_implementation,
            dtype=getattr(torch, dtype),
            # A path on this machine says nothing to others.
            base_model=metadata.get("base_model") if pretrained is None or is_local(pretrained) else pretrained,
        )

    def load_model(self) -> PreTrainedModel:
        """Read the checkpoint's weights, or initialise a fresh model.

        Raises:
            UserError: If the model cannot be loaded or built.
        """
        if self.folder is None:
            return model_from_config(self.config, self.tokenizer, self.attn_implementation, self.dtype)
        generation_config = read_generation_config(self.folder)  # refused before the weights are read
        model = model_from_folder(self.folder, self.attn_implementation, self.dtype, self.weights)
        check_finite(model, str(self.folder))
        self._check_vocabulary(model)
        if generation_config is not None:
            model.generation_config = generation_config
        return model

    def empty_model(self) -> PreTrainedModel:
        """Build the same model on the meta device: shapes without weights.

        Raises:
            UserError: If the model cannot be built.
        """
        if self.folder is None:
            with torch.device("meta"):
                return model_from_config(self.config, self.tokenizer, self.attn_implementation, self.dtype)
        generation_config = read_generation_config(self.folder)
        model = empty_model_from_folder(self.folder, self.config, self.attn_implementation, self.dtype)
        self._check_vocabulary(model)
        if generation_config is not None:
            model.generation_config = generation_config
        return model

    def check_deferrable(self) -> None:
        """Refuse a source whose weights cannot be read slice by slice later.

        Raises:
            UserError: For a fresh model, or a published checkpoint that has to be converted first.
        """
        if self.folder is None:
            raise UserError("backbone.defer: expected a pretrained model, whose weights can be read later")
        refuse_to_defer(self.folder, self.config)

    def context_length(self, model: PreTrainedModel) -> int:
        """Return the longest sequence in tokens: ``max_length``, but never more than the model has positions for.

        Args:
            model: The model, with or without weights.

        Raises:
            UserError: If not even one block fits, or the model would be silently wrong at that length.
        """
        positions = int(model.config.max_position_embeddings)
        limit = min(int(self.max_length or positions), positions)
        if limit < self.block_length:
            raise UserError(
                f"block_length: expected at most the {limit} positions of the model or max_length, "
                f"got {self.block_length}"
            )
        refuse_unsupported(model, limit // self.block_length * self.block_length, self.attn_implementation)
        return limit

    def _check_vocabulary(self, model: PreTrainedModel) -> None:
        if was_trained_with_masks(self.config):
            require_rows(self.tokenizer, embedding_table(model).shape[0])
