"""The frozen copy of a module's model, from which some noise strategies take features, and its checkpoints."""

from __future__ import annotations

import math
from typing import Any

import lightning as L

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.frozen_features import FrozenFeatures
from dmaxlit.checkpoints.lightning_internals import is_attached
from dmaxlit.errors import UserError
from dmaxlit.noise import NoiseStrategy


class FrozenCopyMixin(L.LightningModule):
    """The part of :class:`dmaxlit.DMaxModule` that computes features of the model as it was when training began.

    Attributes:
        frozen_copy: Where the copy is between two batches: ``device``, or ``offloaded`` to main memory.
    """

    backbone: Denoiser
    noise: NoiseStrategy
    frozen_copy: str
    _features: FrozenFeatures | None = None
    _earlier: FrozenFeatures | None = None  # of the last run that began, which the next one may go on with

    def frozen_features(self) -> FrozenFeatures:
        """Return the features that the noise strategy asks for, of the model as it is when this is first called.

        A trainer calls it before it restores a checkpoint, but not in a module that another one contains.

        Raises:
            UserError: If the strategy names no layer, or another one than at the first call, or the model is sharded,
                or the trainer of a module that contains this one has restored a checkpoint before the first call.
        """
        layer = self.noise.feature_layer
        if layer is None:
            name = type(self.noise).__name__
            raise UserError(f"noise: expected {name}, which asks for features, to set feature_layer, got None")
        if self._features is None:
            if self.backbone.lora is None and self._is_restored_inside():
                raise UserError(
                    "noise: expected begin_frozen_copy() of the contained DMaxModule to be called before a fit with "
                    "ckpt_path, since features are those of the weights that the run began with, got no frozen copy"
                )
            self._features = FrozenFeatures(self.backbone, layer, self.frozen_copy == "offloaded")
        if layer != self._features.layer:
            raise UserError(
                f"noise: expected a strategy that asks for features of layer {self._features.layer}, of which there is "
                f"a frozen copy, got one of layer {layer}"
            )
        return self._features

    def begin_frozen_copy(self) -> None:
        """Copy the model as it is now, if the noise strategy asks for features: a run begins.

        That of the last run is kept until it is known whether a checkpoint of that run is gone on from.
        """
        self._features = None
        if self.noise.feature_layer is not None:
            self.frozen_features()

    def _is_restored_inside(self) -> bool:
        """Return whether this module is part of one whose trainer goes on from a checkpoint."""
        return is_attached(self) and self.trainer.lightning_module is not self and self.trainer.ckpt_path is not None

    def release_features(self) -> None:
        """Forget the batch that features were computed for, if any were; see :meth:`FrozenFeatures.release`."""
        if self._features is not None:
            self._features.release()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what identifies the frozen copy, if there is one."""
        super().on_save_checkpoint(checkpoint)
        if self._features is not None:
            checkpoint["frozen_copy"] = self._features.checksum()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of a run with another frozen copy, or with none.

        Raises:
            UserError: If the model did not start from the same weights.
        """
        super().on_load_checkpoint(checkpoint)
        expected, features = checkpoint.get("frozen_copy"), self._features
        if features is None or (is_attached(self) and not self.trainer.training):
            return
        if expected is None:
            if self.backbone.lora is not None:  # the copy is the model without its adapters, which is in the checkpoint
                return
            raise UserError(
                "ckpt_path: expected a checkpoint of a run with a frozen copy of its first weights, since features of "
                "them are the targets, got one of a run without; to begin with its weights, export it and set "
                "backbone.pretrained to the folder"
            )
        if _is_close(features, expected):
            return
        if self._earlier is not None and self._earlier.layer == features.layer and _is_close(self._earlier, expected):
            self._features = self._earlier
            return
        raise UserError(
            "backbone: expected the weights that the run began with, since features of a frozen copy of them are its "
            f"targets, got others (mean sizes sum to {features.checksum():.6f}, not {expected:.6f})"
        )

    def on_fit_start(self) -> None:
        """Keep this run's copy for the next one. That of the run before is not needed: the checkpoint was read."""
        super().on_fit_start()
        self._earlier = self._features

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the features: the frozen copy belongs to the run."""
        return {**super().__getstate__(), "_features": None, "_earlier": None}


def _is_close(features: FrozenFeatures, checksum: float) -> bool:
    return math.isclose(features.checksum(), checksum, rel_tol=1e-6)
