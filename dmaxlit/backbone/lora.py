"""Low-rank adaptation (LoRA, arXiv 2106.09685) through peft: a few trained parameters next to frozen weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dmaxlit.backbone.formats.model_folder import model_of_weights
from dmaxlit.errors import UserError

MASK_DELTA = "mask_delta"
_ADAPTER = "default"


@dataclass
class LoraSettings:
    """``W + alpha / r * B A`` in place of each adapted matrix ``W``, which is frozen; B starts at 0.

    The mask token's embedding is trained with them, as an offset added to its row: a model that has never seen the
    token could not learn to read it otherwise. Exports and ``dmaxlit.load`` have everything merged.

    Args:
        r: Rank, at least 1.
        alpha: Scale, above 0; the product is multiplied by ``alpha / r``.
        dropout: Dropout probability of the product's input, in [0, 1).
        target_modules: Names of the linear layers, such as ``[q_proj, v_proj]``, or ``all-linear``: all except the
            output embedding. (Experts that are stacked in one tensor are not linear layers.)
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: If one is.
        """
        if self.r < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise UserError(
                "lora: expected r of at least 1, alpha above 0 and dropout in [0, 1), "
                f"got {self.r}, {self.alpha} and {self.dropout}"
            )


def add_adapters(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Add adapters to the target layers and freeze everything else.

    Raises:
        UserError: If peft is not installed, a setting is out of range, or no layer has such a name.
    """
    settings.check()
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("lora: expected the package peft, found none; pip install 'dmaxlit[lora]'") from error
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
    )
    try:
        inject_adapter_in_model(config, model, _ADAPTER)
    except ValueError as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(f"lora.target_modules: {reason}") from error


@torch.no_grad()
def merge_weights(
    weights: Mapping[str, Tensor], settings: LoraSettings, embedding_name: str, mask_id: int
) -> dict[str, Tensor]:
    """Return the weights of a model without adapters that computes the same.

    Args:
        weights: Weights of the model with adapters, and the mask token's offset under :data:`MASK_DELTA`.
        settings: Settings of the adapters.
        embedding_name: Name of the embedding table; a table with the same storage is taken to be tied to it.
        mask_id: Id of the mask token.
    """
    merged = {name.replace(".base_layer.", "."): weight for name, weight in weights.items() if ".lora_" not in name}
    for name, a in weights.items():
        layer, separator, _ = name.partition(f".lora_A.{_ADAPTER}.")
        if separator:
            b, weight = weights[f"{layer}.lora_B.{_ADAPTER}.weight"], merged[f"{layer}.weight"]
            product = settings.alpha / settings.r * (b.float() @ a.float())
            merged[f"{layer}.weight"] = (weight.float() + product).to(weight.dtype)
    offset = merged.pop(MASK_DELTA)
    table = merged[embedding_name].clone()
    table[mask_id] += offset.to(table.dtype)
    tied = [name for name, weight in merged.items() if weight.data_ptr() == merged[embedding_name].data_ptr()]
    return merged | dict.fromkeys(tied, table)


def merged_model(
    config: PretrainedConfig, weights: Mapping[str, Tensor], settings: LoraSettings, embedding_name: str, mask_id: int
) -> PreTrainedModel:
    """Return a model without adapters that computes the same; see :func:`merge_weights`.

    Args:
        config: Configuration of the model.
        weights: Weights of the model with adapters.
        settings: Settings of the adapters.
        embedding_name: Name of the embedding table.
        mask_id: Id of the mask token.
    """
    return model_of_weights(config, merge_weights(weights, settings, embedding_name, mask_id))
