"""The weights of a denoiser: which of them are trained, and the folder that they are written to."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmaxlit.backbone.auxiliary import AuxiliaryModel, AuxiliarySettings
from dmaxlit.backbone.auxiliary_source import auxiliary_from_settings, auxiliary_to_go_on_with, write_auxiliary
from dmaxlit.backbone.formats.model_folder import write_folder
from dmaxlit.backbone.hidden_matrices import mark_hidden_matrices
from dmaxlit.backbone.lora import LoraSettings, add_adapters, check_embedding, merged_model, train_in_float32
from dmaxlit.backbone.mask_embedding import embedding_table
from dmaxlit.backbone.sharding import full_state_dict
from dmaxlit.errors import UserError
from dmaxlit.tokens import SpecialTokens

__all__ = ["DenoiserWeights"]


class DenoiserWeights(nn.Module):
    """The part of :class:`~dmaxlit.backbone.denoiser.Denoiser` that says which weights train, and writes them.

    The denoiser sets the attributes; see there.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    special: SpecialTokens
    block_length: int
    base_model: str | None
    is_deferred: bool
    lora: LoraSettings | None
    mask_delta: nn.Parameter | None
    auxiliary: AuxiliaryModel | None
    trains_auxiliary: bool
    _limit: int

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return int(self.embedding.shape[0])

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.embedding.device

    @property
    def embedding(self) -> Tensor:
        """``[vocab, width]`` input embedding table as stored, without scaling; ``embed`` scales."""
        return embedding_table(self.model)

    @property
    def embedding_name(self) -> str:
        """Name of the embedding table among the model's weights."""
        return next(name for name, weight in self.model.named_parameters() if weight is self.embedding)

    def add_lora(self, settings: LoraSettings) -> None:
        """Train low-rank adapters and the mask embedding instead of the weights; see :class:`LoraSettings`.

        Raises:
            UserError: If a setting is out of range, peft is not installed, weights are deferred, or the model with
                adapters could not be merged into one without.
        """
        if self.is_deferred:
            raise UserError("lora: expected a model with weights, but backbone.defer reads them later")
        check_embedding(self.model.get_input_embeddings(), self.embedding)
        add_adapters(self.model, settings)
        self.lora = settings
        self.mask_delta = nn.Parameter(torch.zeros_like(self.embedding[self.special.mask_id], dtype=torch.float32))
        mark_hidden_matrices(self)

    def train_auxiliary(self, settings: AuxiliarySettings) -> None:
        """Freeze the denoiser, and train an auxiliary model on its marginals; see :class:`AuxiliarySettings`.

        Raises:
            UserError: If a setting is out of range, the model has another tokenizer, weights are deferred, or there is
                no model to go on with.
        """
        if self.is_deferred or self.lora is not None:
            other = "backbone.defer" if self.is_deferred else "lora"
            raise UserError(f"auxiliary: expected a frozen denoiser, which {other} does not go with")
        settings.check(self.block_length)
        if settings.is_new:
            dtype = torch.float32 if settings.lora is None else self.model.dtype
            self.auxiliary = auxiliary_from_settings(settings, self.tokenizer, self.vocab_size, dtype)
        else:
            self.auxiliary = auxiliary_to_go_on_with(settings, self.auxiliary)
        self.requires_grad_(False)
        self.auxiliary.requires_grad_(True)
        if settings.lora is not None:
            self.auxiliary.add_lora(settings.lora)
        train_in_float32(self.auxiliary)
        self.trains_auxiliary = True
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen denoiser stays in eval mode, without dropout."""
        super().train(mode)
        if self.trains_auxiliary:
            self.model.eval()
        return self

    def export_metadata(self) -> dict[str, Any]:
        """Return the denoiser's own entries of ``dmaxlit.json``: what the model's config lacks."""
        limit = {"max_length": self._limit} if self._limit < int(self.model.config.max_position_embeddings) else {}
        base = {} if self.base_model is None else {"base_model": self.base_model}
        return {"block_length": self.block_length, **limit, **base}

    def save(self, folder: Path, metadata: dict[str, Any], write: bool = True) -> None:
        """Write a folder that :func:`dmaxlit.load` and transformers both read.

        Args:
            folder: Folder to write; an existing export is replaced as a whole.
            metadata: Further entries of ``dmaxlit.json``.
            write: Whether this process writes. Every rank of a sharded model must call, to gather the weights.
        """
        weights, model = full_state_dict(self), self.model
        if not write:
            return
        if self.lora is not None:
            unmerged = weights or {
                name.removeprefix("model."): weight
                for name, weight in self.state_dict().items()
                if not name.startswith("auxiliary.")
            }
            model = merged_model(model.config, unmerged, self.lora, self.embedding_name, self.special.mask_id)
            model.generation_config = self.model.generation_config
            weights = None
        also = None if self.auxiliary is None else partial(write_auxiliary, self.auxiliary)
        write_folder(folder, model, self.tokenizer, {**self.export_metadata(), **metadata}, weights, also)
