"""What rows are encoded for."""

from dataclasses import dataclass
from typing import Any

import lightning as L
from transformers import PreTrainedTokenizerBase

from dmaxlit.errors import UserError


@dataclass(frozen=True)
class BoundModel:
    """The model of a data module, as far as its rows depend on it.

    Args:
        tokenizer: Its tokenizer.
        block_length: Length of the blocks of the grid.
        max_length: Its context length, in tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    block_length: int
    max_length: int

    @classmethod
    def of(cls, trainer: L.Trainer | None) -> "BoundModel":
        """Return that of a trainer's module.

        Raises:
            UserError: If there is no trainer, or its module has no backbone.
        """
        if trainer is None:
            raise UserError("data: expected a trainer or a call of bind(tokenizer, block_length, max_length)")
        module: Any = trainer.lightning_module
        if not hasattr(module, "backbone"):
            raise UserError(
                f"data: expected the trainer's module to be a DMaxModule, got {type(module).__name__}; for another one "
                "call bind(tokenizer, block_length, max_length) first"
            )
        return cls(module.tokenizer, module.backbone.block_length, module.backbone.max_length)
