"""Saving and loading a module with checkpoints that stand alone."""

from pathlib import Path
from typing import Any, Self

from torch import nn

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.checkpoints.lightning_file import checkpoint_metadata, weights_beside_the_model
from dmaxlit.checkpoints.stored_backbone import backbone_of_checkpoint
from dmaxlit.errors import UserError


class CheckpointMixin(nn.Module):
    """Checkpoints with the model's config, tokenizer and metadata: for modules with a ``backbone`` and ``metadata``."""

    backbone: Denoiser

    def metadata(self) -> dict[str, Any]:
        """Return what a checkpoint stores in addition to weights and config; JSON types only."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the model's config, tokenizer and metadata as plain data: the checkpoint alone is enough to load."""
        checkpoint["dmaxlit"] = checkpoint_metadata(self.backbone, self.metadata())

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, map_location: Any = None, strict: bool = True, **options: Any
    ) -> Self:
        """Return a module of this class with the weights of a checkpoint, those that a subclass adds included.

        The model is made from the checkpoint, adapters merged; :func:`dmaxlit.load` does the same with it alone.

        Args:
            checkpoint_path: A ``.ckpt`` file, or sharded checkpoint, written by ``fit``.
            map_location: Device of the module; default: the CPU.
            strict: Whether the checkpoint must hold the other weights of this class, and no more.
            **options: Arguments of the class other than ``backbone``.

        Raises:
            UserError: If the checkpoint is missing, damaged or not one of ours, or holds other weights.
        """
        module = cls(backbone=backbone_of_checkpoint(checkpoint_path), **options)
        others = weights_beside_the_model(checkpoint_path)
        expected = {name: value for name, value in module.state_dict().items() if not name.startswith("backbone.")}
        wrong = [
            name
            for name in {**expected, **others}
            if (strict or (name in expected and name in others))
            and getattr(expected.get(name), "shape", None) != getattr(others.get(name), "shape", None)
        ]
        if wrong:
            raise UserError(
                f"checkpoint: expected the weights of {cls.__name__}, got others in {str(checkpoint_path)!r}, such as "
                f"{wrong[0]}"
            )
        module.load_state_dict(others, strict=False)
        return module if map_location is None else module.to(map_location)
