"""The corpus of a run that distils it first, from the model that it is about to train."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.data.distill import distill
from dmaxlit.data.distill_settings import UNNAMED, DistillSettings
from dmaxlit.data.identity import difference, template_hash
from dmaxlit.data.resumable_jsonl import manifest_path
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.files import read_json
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import TASKS, Task


def distill_for_training(
    trainer: Any, task: Task, corpus: Path, settings: DistillSettings, ranks: Ranks | None = None
) -> None:
    """Distil a corpus from the module a trainer is about to train, unless the corpus exists.

    An existing corpus is used unchanged; if its manifest records other settings, a warning names the first.

    Args:
        trainer: The Lightning trainer; the model is decoded on its device.
        task: The task whose training prompts are answered.
        corpus: Path of the corpus.
        settings: How to distil it.
        ranks: The processes that call this. Default: all of the trainer.

    Raises:
        UserError: If distilling fails, or the weights are not there yet.
    """
    module, together = trainer.lightning_module, ranks or Ranks.of_trainer(trainer)
    if not together.from_main(lambda: _is_usable(module, task, corpus, settings)):
        original_device = module.device
        module.to(trainer.strategy.root_device)
        try:
            distill(module, task, corpus, settings, argument="corpus", ranks=together)
        finally:
            module.to(original_device)
    together.end()


def _is_usable(module: Any, task: Task, corpus: Path, settings: DistillSettings) -> bool:
    """Return whether a corpus exists; refuse a model that cannot write it."""
    if corpus.exists():
        _warn_of_other_settings(module, task, corpus, settings)
        return True
    if getattr(module.backbone, "is_deferred", False):
        raise UserError(
            f"distill: expected {str(corpus)!r} to exist, or weights to write it with, which backbone.defer reads "
            "later; write it first, with `dmaxlit distill`"
        )
    return False


def _warn_of_other_settings(module: Any, task: Task, corpus: Path, settings: DistillSettings) -> None:
    if not manifest_path(corpus).exists():
        return
    recorded = read_json(manifest_path(corpus)).get("settings", {})
    expected = settings.recorded() | {"task": TASKS.name_of(type(task)), "task_options": task.options()}
    expected["chat_template"] = template_hash(module.tokenizer)
    if settings.max_new_tokens is None:
        expected["max_new_tokens"] = task.max_new_tokens
    used = {key: recorded[key] for key in [*expected, *UNNAMED] if key in recorded}
    if (change := difference(used, json.loads(json.dumps(expected)))) is not None:
        rank_zero_warn(f"{corpus}: used as it is, though made with other settings: {change}", category=DMaxWarning)
