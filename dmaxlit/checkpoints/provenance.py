"""What a model comes from, as its checkpoints and exports store it: task, data sets, steps, and how it was judged."""

from __future__ import annotations

from typing import Any

import lightning as L

from dmaxlit.backbone.formats.hub import data_set_of
from dmaxlit.checkpoints.lightning_internals import is_attached
from dmaxlit.checkpoints.mixin import CheckpointMixin
from dmaxlit.noise import NOISE, NoiseStrategy
from dmaxlit.tasks import Task, task
from dmaxlit.tasks.stored import task_of_checkpoint


class ProvenanceMixin(CheckpointMixin, L.LightningModule):  # type: ignore[misc]  # load_from_checkpoint
    """The part of :class:`dmaxlit.DMaxModule` that knows what its model comes from.

    The module has a ``backbone`` and a ``noise`` strategy, and calls :meth:`_read_provenance` when it has them.

    Attributes:
        task_name: Registered name or import path of the task whose data the model is trained on, or None.
        task_options: The options of that task.
        decoding: ``decoder`` and ``options`` that the model was judged with, or None.
        judged_decoding: The same if it was chosen by figures, or stored: it is no default of weights that are trained
            further, as one that the user has set is.
        figures: Figures for the model card: ``task``, ``command`` and ``rows``; None without any.
        datasets: Data sets on the hub that the model is trained on.
        chosen_step: Step of the weights while they are not those of the trainer's last step, else None.
    """

    noise: NoiseStrategy
    task_name: str | None
    task_options: dict[str, Any]
    decoding: dict[str, Any] | None
    judged_decoding: dict[str, Any] | None
    figures: dict[str, Any] | None
    datasets: list[str]
    chosen_step: int | None

    def _read_provenance(self) -> None:
        """Take over what is stored with the model's weights."""
        stored = self.backbone.source_metadata
        stored_task = stored.get("task") or {}
        self.task_name = stored_task.get("name")
        self.task_options = stored_task.get("options", {})
        self._task_is_stored = True
        self.decoding = self.judged_decoding = stored.get("decoding")
        self.figures = stored.get("figures")
        self.datasets = list(stored.get("datasets", ()))
        self._loaded_step: int | None = None
        self.chosen_step = None

    def task(self) -> Task | None:
        """Return the task the model was trained on, with its options, or None.

        Raises:
            UserError: If the options are wrong; or if only the checkpoint names the task, and it is not registered, or
                not :attr:`~dmaxlit.tasks.Task.self_contained`.
        """
        if self.task_name is None:
            return None
        if self._task_is_stored:
            return task_of_checkpoint(self.task_name, self.task_options)
        return task(self.task_name, **self.task_options)

    def set_task(self, name: str, options: dict[str, Any]) -> None:
        """Set the task whose data the model is trained on; exports and checkpoints store it."""
        self.task_name, self.task_options, self._task_is_stored = name, options, False

    def weights_step(self) -> int | None:
        """Return the optimiser step that the weights are of; None for a model that was not trained here."""
        training = self.backbone.source_metadata.get("training") or {}
        return self.chosen_step or self._trainer_step("global_step") or self._loaded_step or training.get("steps")

    def trained_on(self) -> dict[str, str]:
        """Return what the module is trained on: ``noise``, the strategy's name."""
        return {"noise": NOISE.name_of(type(self.noise)) or type(self.noise).__name__}

    def metadata(self) -> dict[str, Any]:
        """Return what a checkpoint or export stores in addition to weights and config; JSON types only."""
        stored = None if self.task_name is None else {"name": self.task_name, "options": self.task_options}
        known = {name: self.backbone.source_metadata.get(name) for name in ("training", "auxiliary_training")}
        if steps := self.chosen_step or self._trainer_step("global_step"):  # else the model is as it was loaded
            trained = "auxiliary_training" if self.backbone.trains_auxiliary else "training"
            known[trained] = {**self.trained_on(), "steps": steps}
        known |= {"datasets": self.datasets, "decoding": self.decoding, "figures": self.figures}
        present = {name: value for name, value in known.items() if value}
        return {**self.backbone.export_metadata(), "task": stored, **present}

    def on_fit_start(self) -> None:
        """Set the data module's task, if it has a registered one, and its data sets; old figures hold no longer."""
        data: Any = getattr(self.trainer, "datamodule", None)
        self.decoding = None if self.decoding is self.judged_decoding else self.decoding
        self.judged_decoding = self.figures = None
        names = map(data_set_of, getattr(data, "corpora", ()))
        self.datasets = list(dict.fromkeys(name for name in names if name is not None))
        if getattr(data, "task_name", None) is not None:
            self.set_task(data.task_name, data.task.options())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the step, which the trainer does not know in ``validate`` and ``test``."""
        self._loaded_step = checkpoint.get("global_step")

    def _trainer_step(self, name: str) -> int:
        return int(getattr(self.trainer, name)) if is_attached(self) else 0
