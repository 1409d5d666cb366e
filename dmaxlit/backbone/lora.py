"""Low-rank adaptation (LoRA, arXiv 2106.09685) through peft: a few trained numbers beside weights that stand still."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dmaxlit.errors import UserError

__all__ = ["MASK_DELTA", "LoraSettings", "add_adapters", "merged"]

MASK_DELTA = "mask_delta"
_ADAPTER = "default"


@dataclass
class LoraSettings:
    """``W + alpha / r * B A`` in place of each chosen matrix ``W``, which stands still; B begins at 0.

    The mask token's embedding is trained with them, as a vector that is added to its row: a model that has never seen
    the token could not learn to read it otherwise. Exports and ``dmaxlit.load`` have everything merged.

    Args:
        r: Rank, at least 1.
        alpha: Scale, above 0; the product is multiplied by ``alpha / r``.
        dropout: Of the product's input, in [0, 1).
        target_modules: Names of the linear layers, such as ``[q_proj, v_proj]``, or ``all-linear``: all but the output
            embedding. (Experts that are stacked in one tensor are no linear layers.)
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: If so.
        """
        if self.r < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise UserError(
                "lora: expected r of at least 1, alpha above 0 and dropout in [0, 1), "
                f"got {self.r}, {self.alpha} and {self.dropout}"
            )


def add_adapters(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Put adapters beside the chosen layers and let nothing else be trained.

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
def merged(weights: Mapping[str, Tensor], settings: LoraSettings, embedding: str, mask: int) -> dict[str, Tensor]:
    """The weights of a model without adapters that does the same.

    Args:
        weights: Weights of the model with adapters, and under :data:`MASK_DELTA` what the mask token's row gains.
        settings: What they were made with.
        embedding: Name of the embedding table; a table of the same values is taken to be tied to it.
        mask: Id of the mask token.
    """
    out = {name.replace(".base_layer.", "."): weight for name, weight in weights.items() if ".lora_" not in name}
    for name, a in weights.items():
        layer, found, _ = name.partition(f".lora_A.{_ADAPTER}.")
        if found:
            b, weight = weights[f"{layer}.lora_B.{_ADAPTER}.weight"], out[f"{layer}.weight"]
            product = settings.alpha / settings.r * (b.float() @ a.float())
            out[f"{layer}.weight"] = (weight.float() + product).to(weight.dtype)
    gain = out.pop(MASK_DELTA)
    table = out[embedding].clone()
    table[mask] += gain.to(table.dtype)
    tied = [name for name, weight in out.items() if weight.data_ptr() == out[embedding].data_ptr()]
    return out | dict.fromkeys(tied, table)
