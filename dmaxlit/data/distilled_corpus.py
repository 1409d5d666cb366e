"""The corpus that a run writes with its own model before it learns from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.data.chat_turns import ChatTurns
from dmaxlit.data.conversation_rows import BadConversationError, conversation_of
from dmaxlit.data.distill import distill
from dmaxlit.data.distill_settings import DEFAULT_NUM_PROMPTS, UNNAMED, DistillSettings
from dmaxlit.data.identity import difference, template_hash
from dmaxlit.data.resumable_jsonl import manifest_path
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.files import files_of_options, read_json, require_other_files
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import TASKS, Task
from dmaxlit.tasks.base import examples_up_to, first_examples
from dmaxlit.tasks.records import OnBadRow
from dmaxlit.tasks.sources import held_out_path, require_outside


class DistilledCorpus:
    """A corpus that is written if it does not exist.

    One that exists is used unchanged; if its manifest records other settings, a warning names the first.

    A dry run (``fast_dev_run``) writes the answers to one batch of prompts to a temporary folder instead, and keeps all
    of them, so that it leaves nothing behind and works with an untrained model.

    Args:
        path: The corpus.
        task: The task whose training prompts are answered.
        settings: How.
        batch_size: Prompts that a dry run answers.
        chat: Which turns of the conversations are learnt.
        on_bad_row: What is done with conversations that cannot be learnt; under ``error`` they are refused before
            anything is answered.
        columns: Columns of the corpus under other names, which one that is written here does not have.
    """

    def __init__(
        self,
        path: str,
        task: Task,
        settings: DistillSettings,
        batch_size: int,
        chat: ChatTurns | None = None,
        on_bad_row: OnBadRow = "error",
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self._path, self._task, self._settings, self._batch_size = path, task, settings, batch_size
        self._chat, self._on_bad_row, self._columns = chat or ChatTurns(), on_bad_row, dict(columns or {})
        self._folder: TemporaryDirectory[str] | None = None

    def write(self, trainer: L.Trainer) -> None:
        """Write the corpus, unless it exists; all ranks do that together, or rank zero in a dry run.

        Args:
            trainer: The trainer, whose model is decoded on its devices; all of its ranks call this.

        Raises:
            UserError: If the model's weights are not there yet, or distilling fails.
        """
        path = Path(self._path)
        if not _is_dry_run(trainer):
            self._distill(trainer, path, self._settings, Ranks.of_trainer(trainer))
        elif trainer.is_global_zero and self._folder is None and not path.exists():
            self._folder = TemporaryDirectory(prefix="dmaxlit-")
            asked = self._settings.num_prompts or len(examples_up_to(self._task, "train", self._batch_size))
            few = self._settings.unfiltered(min(asked, self._batch_size) or None)
            try:
                self._distill(trainer, Path(self._folder.name) / path.name, few, Ranks())
            except BaseException:
                self.clean_up()
                raise

    def path(self, trainer: L.Trainer | None) -> str:
        """Return where the corpus is: for all ranks, where rank zero has written it.

        Args:
            trainer: The trainer; all of its ranks call this.
        """
        folder = None
        if trainer is not None and _is_dry_run(trainer):
            folder = trainer.strategy.broadcast(None if self._folder is None else self._folder.name)
        return self._path if folder is None else str(Path(folder) / Path(self._path).name)

    def clean_up(self) -> None:
        """Remove the files of a dry run."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _distill(self, trainer: Any, corpus: Path, settings: DistillSettings, ranks: Ranks) -> None:
        """Distil the corpus from the module that is about to be trained, unless it exists; all these ranks call it."""
        module = trainer.lightning_module
        if not ranks.from_main(lambda: self._is_usable(module, corpus, settings)):
            original_device = module.device
            module.to(trainer.strategy.root_device)
            try:
                distill(module, self._task, corpus, settings, argument="corpus", ranks=ranks)
            finally:
                module.to(original_device)
        ranks.end()

    def _is_usable(self, module: Any, corpus: Path, settings: DistillSettings) -> bool:
        """Return whether a corpus exists; refuse a model that cannot write it, and rows that could not be read."""
        if corpus.exists():
            _warn_of_other_settings(module, self._task, corpus, settings)
            return True
        options = self._task.options()
        held_out = held_out_path(corpus) if settings.held_out else None
        written = {"corpus": corpus, "distill.held_out": held_out}
        require_other_files(written, files_of_options("--data.task_options", options))
        require_outside(written, {}, "--data.task_options", options)
        if self._columns:
            raise UserError(f"columns: expected none for a corpus that is distilled here, got {self._columns}")
        if getattr(module.backbone, "is_deferred", False):
            raise UserError(
                f"distill: expected {str(corpus)!r} to exist, or weights to write it with, which backbone.defer reads "
                "later; write it first, with `dmaxlit distill`"
            )
        if self._on_bad_row == "error":
            self._check_prompts(settings)
        return False

    def _check_prompts(self, settings: DistillSettings) -> None:
        """Refuse conversations that could not be learnt, such as with turns of tools, before they are answered."""
        examples = first_examples(self._task, "train", settings.num_prompts, DEFAULT_NUM_PROMPTS, "distill.num_prompts")
        for number, example in enumerate(examples, start=1):
            prompt: Any = example.prompt  # of a task of one's own it may be a conversation
            if isinstance(prompt, str):
                continue
            answered = [*prompt, {"role": "assistant", "content": "an answer"}]
            try:
                self._chat.learnt(conversation_of(answered, getattr(prompt, "tools", None)))
            except BadConversationError as error:
                raise UserError(f"distill: prompt {number} of the task {error}") from error


def _is_dry_run(trainer: L.Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))


def _warn_of_other_settings(module: Any, task: Task, corpus: Path, settings: DistillSettings) -> None:
    if not manifest_path(corpus).exists():
        return
    recorded = read_json(manifest_path(corpus)).get("settings", {})
    name = TASKS.name_of(type(task)) or type(task).__qualname__
    expected = settings.recorded() | {"task": name, "task_options": task.options()}
    expected["chat_template"] = template_hash(module.tokenizer)
    if settings.max_new_tokens is None:
        expected["max_new_tokens"] = task.max_new_tokens
    if settings.num_prompts is None:
        del expected["num_prompts"]
    if task.stop:
        expected["stop"] = [*task.stop]
    used = {key: recorded[key] for key in [*expected, *UNNAMED, "stop"] if key in recorded}
    if (change := difference(used, json.loads(json.dumps(expected)))) is not None:
        rank_zero_warn(f"{corpus}: used as it is, though made with other settings: {change}", category=DMaxWarning)
