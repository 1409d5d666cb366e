"""Where a denoiser's weights come from, where they are, and how they are written: the part that is no mathematics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmaxlit.backbone.formats.model_folder import model_of_weights, write_folder
from dmaxlit.backbone.lora import LoraSettings, add_adapters, merged
from dmaxlit.backbone.mask_embedding import init_mask_embedding, is_vanishing
from dmaxlit.backbone.sharding import full_state_dict, load_shards, shard
from dmaxlit.errors import UserError
from dmaxlit.tokens import SpecialTokens

if TYPE_CHECKING:
    from dmaxlit.backbone.denoiser import Denoiser

__all__ = ["KeepsWeights"]


class KeepsWeights:
    """The part of :class:`~dmaxlit.backbone.denoiser.Denoiser` that loads, shards, adapts and saves."""

    if TYPE_CHECKING:
        model: PreTrainedModel
        tokenizer: PreTrainedTokenizerBase
        special: SpecialTokens
        metadata: dict[str, Any]
        block_length: int
        is_deferred: bool
        _compiles_training: bool
        lora: LoraSettings | None
        mask_delta: nn.Parameter | None
        _source: Path | None
        _adds_mask: bool
        _limit: int

        @property
        def embedding(self) -> Tensor: ...  # noqa: D102

        @property
        def _positions(self) -> int: ...

    def add_lora(self, settings: LoraSettings) -> None:
        """Train low-rank adapters and the mask embedding instead of the weights; see :class:`LoraSettings`.

        Raises:
            UserError: If a setting is out of range, peft is not installed, or weights are deferred.
        """
        if self.is_deferred:
            raise UserError("lora: expected weights to stand beside, but backbone.defer reads them later")
        add_adapters(self.model, settings)
        self.lora = settings
        self.mask_delta = nn.Parameter(torch.zeros_like(self.embedding[self.special.mask_id]))

    def _fit_embeddings(self) -> None:
        """Rows for tokens that were added, and a mask embedding to start from where the checkpoint has none."""
        old, new = self.embedding.shape[0], len(self.tokenizer)
        if new > old:
            self.model.resize_token_embeddings(new, mean_resizing=False)
        trained, mask = min(old, new), self.special.mask_id
        table = self.model.get_input_embeddings()
        assert isinstance(table, nn.Embedding), "refused otherwise"
        rows = sorted({*range(old, new), *([mask] if self._adds_mask else [])})
        if not rows and not self.metadata and is_vanishing(table, mask, trained):
            rank_zero_info("backbone: the mask embedding is all but zero; training starts from the mean of the others")
            rows = [mask]
        if rows:
            init_mask_embedding(table, rows, trained)

    def shard_and_load(self, mesh: DeviceMesh | None, device: torch.device, compute_dtype: torch.dtype | None) -> None:
        """Shard the model over a mesh, if there is one, and read the weights if that was deferred.

        Args:
            mesh: One-dimensional mesh of the ranks that share it.
            device: Where deferred weights go.
            compute_dtype: See :func:`~dmaxlit.backbone.sharding.shard`.
        """
        if mesh is not None:
            if self._compiles_training:
                raise UserError("compile: expected false under a strategy that shards the model")
            shard(self._itself, mesh, compute_dtype)
        if self.is_deferred:
            assert self._source is not None, "refused otherwise"
            load_shards(self.model, self._source, device)
            self.is_deferred = False
            self._fit_embeddings()
            self.model.train()

    @property
    def embedding_name(self) -> str:
        """Name of the table among the model's weights."""
        return next(name for name, weight in self.model.named_parameters() if weight is self.embedding)

    def export_metadata(self) -> dict[str, Any]:
        """What a model folder says of the denoiser beside the model's config."""
        limit = {"max_length": self._limit} if self._limit < self._positions else {}
        return {"block_length": self.block_length, **limit}

    def save(self, folder: Path, metadata: dict[str, Any], write: bool = True) -> None:
        """Write the folder that :func:`dmaxlit.load` and transformers both read.

        Args:
            folder: Where; replaced as a whole if it exists.
            metadata: What else ``dmaxlit.json`` is to hold.
            write: Whether this process writes. If the model is sharded every rank must call, for the weights.
        """
        weights, model = full_state_dict(self._itself), self.model
        if not write:
            return
        if self.lora is not None:
            own = {name.removeprefix("model."): weight for name, weight in self._itself.state_dict().items()}
            model = model_of_weights(
                model.config, merged(weights or own, self.lora, self.embedding_name, self.special.mask_id)
            )
            weights = None
        write_folder(folder, model, self.tokenizer, {**self.export_metadata(), **metadata}, weights)

    @property
    def _itself(self) -> Denoiser:
        from dmaxlit.backbone.denoiser import Denoiser

        assert isinstance(self, Denoiser), "this is a part of it"
        return self
