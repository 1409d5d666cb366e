"""The data module: a corpus of pairs or plain texts for training, and a task's prompts for evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.chat_template import choose_template
from dmaxlit.data.corpus_reader import Row, read_corpus
from dmaxlit.data.dataset import Collate, PackedPairs, pack
from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.data.encoding import EosFill, check_eos_fill
from dmaxlit.data.eval_prompts import decodable_examples, eval_loader
from dmaxlit.data.lost_turns import rows_with_warnings
from dmaxlit.data.row_forms import COLUMNS
from dmaxlit.data.sampling import OrderedRowSampler, ResumableLoader, RowSampler
from dmaxlit.data.template_date import TemplateDate
from dmaxlit.data.training_corpus import distill_for_training
from dmaxlit.errors import UserError, check_at_least, check_not_none
from dmaxlit.randomness import run_seed
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import TASKS, Example, Split, Task
from dmaxlit.tasks import task as task_by_name
from dmaxlit.tasks.columns import check_columns
from dmaxlit.tasks.records import BadRows, OnBadRow

__all__ = ["SelfDistilledDataModule"]

_MAX_WORKERS = 256  # more would only use up the memory


class SelfDistilledDataModule(L.LightningDataModule):
    """Pairs of prompt and response, or plain texts, for training, and prompts with a checker for evaluation.

    Training rows come from a corpus, usually one that the model wrote itself (self-distillation, DMax section 3.1), or
    from the task's worked responses if there is none (pretraining). Validation and test prompts come from the
    task, whose splits share no prompt. The order of training rows depends on seed and epoch alone.

    Args:
        corpus: One or more ``.jsonl``, ``.json`` or ``.parquet`` files, folders of these, patterns (``data/*.jsonl``)
            or hub ids (``name`` or ``name:config``) with columns ``prompt``/``response``, ``question``/``answer``, chat
            ``messages``, those of ShareGPT, Alpaca or TRL, or ``text`` alone; or ``.txt`` files, each one text. A text
            is learnt as a whole, in windows of ``max_length``. None: the task's responses.
        task: Registered name of the task, or a task.
        task_options: Options of a task given by name.
        num_train: Number of training rows taken from the task if there is no corpus.
        num_val: Number of validation prompts.
        num_test: Number of test prompts.
        batch_size: Training rows in one rank's batch.
        eval_batch_size: Prompts in one rank's batch in validation and test.
        max_length: Most tokens of a row, EOS included; None for the model's context length.
        eos_fill: Supervised EOS tokens that end a response: ``block`` fills the block of the first one, a number is
            their count. What a count leaves of its last block is EOS too, corrupted like the rest but not in the loss.
        on_bad_row: Refuse the first row or evaluation prompt that cannot be used, with its number (``error``), or drop
            such ones and report their count (``skip``).
        hub_split: Split of a hub data set.
        num_workers: Number of loader processes; it does not change the order or content of batches.
        seed: Seed of the order. Default: the run's (``seed_everything``), or 0.
        distill: Write the corpus with the model itself if the file does not exist; None: a missing file is an error.
        chat_template: Name of one of the tokenizer's chat templates, or a ``.jinja`` file. It becomes the model's own:
            ``distill`` and validation use it, checkpoints and exports have it. Default: the tokenizer's.
        template_options: Values of variables that the chat template reads, for instance ``enable_thinking``; kept with
            the template.
        columns: Our name of each column that has another in the corpus, with that: ``prompt``, ``response``,
            ``messages``, ``conversations``, ``instruction``, ``output``, ``text``, ``input``, ``history``, ``system``,
            ``tools``.

    Raises:
        UserError: For a setting out of range, or neither corpus nor task.
    """

    def __init__(
        self,
        corpus: str | list[str] | None = None,
        task: Task | str | None = None,
        task_options: dict[str, Any] | None = None,
        num_train: int = 10_000,
        num_val: int = 128,
        num_test: int = 1000,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        max_length: int | None = None,
        eos_fill: EosFill = "block",
        on_bad_row: OnBadRow = "error",
        hub_split: str = "train",
        num_workers: int = 0,
        seed: int | None = None,
        distill: DistillSettings | None = None,
        chat_template: str | None = None,
        template_options: dict[str, Any] | None = None,
        columns: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.corpora = [corpus] if isinstance(corpus, str) else list(corpus or [])
        if task_options and not isinstance(task, str):
            raise UserError(f"task_options: expected a task given by name, got {task!r}")
        self.task: Task | None = task_by_name(task, **(task_options or {})) if isinstance(task, str) else task
        if not self.corpora and self.task is None:
            raise UserError("data: expected a corpus or a task, got neither")
        check_not_none(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers)
        check_not_none(num_val=num_val, num_test=num_test)
        check_at_least(1, num_train=num_train, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(0, num_val=num_val, num_test=num_test, num_workers=num_workers)
        if num_workers > _MAX_WORKERS:
            raise UserError(f"num_workers: expected at most {_MAX_WORKERS} processes, got {num_workers}")
        check_eos_fill(eos_fill)
        BadRows(on_bad_row)  # refuses an unknown policy
        self.num_examples: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.max_length, self.eos_fill, self.on_bad_row = max_length, eos_fill, on_bad_row
        self.hub_split, self.distill = hub_split, distill
        self.chat_template, self.template_options = chat_template, template_options
        self.columns = check_columns(columns, COLUMNS)
        self.seed = run_seed() if seed is None else seed
        if distill is not None:
            distill.check()
            if self.task is None or len(self.corpora) != 1 or not self.corpora[0].endswith(".jsonl"):
                raise UserError(f"distill: expected a task and one .jsonl corpus to write, got {task!r} and {corpus!r}")
            self.prepare_data_per_node = False
        self._dry_run_folder: TemporaryDirectory[str] | None = None
        self._encoding: tuple[PreTrainedTokenizerBase, int, int] | None = None
        self._date = TemplateDate()
        self._train_rows: PackedPairs | None = None
        self._examples: dict[Split, list[Example]] = {}

    @property
    def task_name(self) -> str | None:
        """Registered name of the task, or None."""
        return None if self.task is None else TASKS.name_of(type(self.task))

    def bind(self, tokenizer: PreTrainedTokenizerBase, block_length: int, max_length: int) -> None:
        """Set the model that rows are encoded for; needed only without a trainer, which knows its model.

        Args:
            tokenizer: The model's tokenizer.
            block_length: Length of the blocks of the grid.
            max_length: The model's context length.
        """
        self._encoding = (tokenizer, block_length, max_length)

    def prepare_data(self) -> None:
        """Distil the corpus, if requested and missing, before training; several ranks do that together in setup.

        Under ``fast_dev_run`` the answers to one batch of prompts go to a temporary folder instead, and all of them are
        kept, so that a dry run leaves nothing behind and works with an untrained model.

        Raises:
            UserError: If distilling fails; see :func:`~dmaxlit.data.distill.distill`.
        """
        trainer = self.trainer
        if self.distill is None or self.task is None or trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return
        self._choose_template()
        corpus = Path(self.corpora[0])
        if not getattr(trainer, "fast_dev_run", False):
            if trainer.world_size == 1:
                distill_for_training(trainer, self.task, corpus, self.distill)
        elif not corpus.exists():
            self._dry_run_folder = TemporaryDirectory(prefix="dmaxlit-")
            corpus = Path(self._dry_run_folder.name) / corpus.name
            few = replace(self.distill, num_prompts=min(self.distill.num_prompts, self.batch_size), keep="all")
            distill_for_training(trainer, self.task, corpus, few, Ranks())

    def _distill_together(self) -> None:
        """Distil the corpus, if requested and missing, on all ranks."""
        trainer = self.trainer
        if self.distill is None or self.task is None or trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.world_size > 1 and not getattr(trainer, "fast_dev_run", False):
            distill_for_training(trainer, self.task, Path(self.corpora[0]), self.distill)

    def setup(self, stage: str | None = None) -> None:
        """Read and encode the rows that the stage needs, and check its prompts.

        Raises:
            UserError: For a corpus that is missing or empty, a bad row or prompt under ``on_bad_row="error"``, or a
                chat template that does not exist.
        """
        self._choose_template()
        if stage in ("fit", None) and self._train_rows is None:
            self._share_dry_run_corpus()
            self._distill_together()
            tokenizer, block_length, max_length = self._model_encoding()
            bad = BadRows(self.on_bad_row)
            limit = min(max_length, self.max_length or max_length)
            tokenizer = self._date.apply(tokenizer, self.trainer)
            rows = rows_with_warnings(self._rows(bad), tokenizer)
            self._train_rows = pack(rows, tokenizer, block_length, limit, self.eos_fill, bad)
        stages_of: dict[Split, tuple[str | None, ...]] = {
            "val": ("fit", "validate", None),
            "test": ("test", "predict", None),
        }
        for split, stages in stages_of.items():
            if stage in stages and self.task is not None and split not in self._examples:
                examples = self.task.examples(split, self.num_examples[split])
                if self._encoding is not None or self.trainer is not None:
                    tokenizer, _, context = self._model_encoding()
                    examples = decodable_examples(examples, split, tokenizer, context, self.on_bad_row)
                self._examples[split] = examples

    def state_dict(self) -> dict[str, Any]:
        """Return the date that a chat template wrote into the rows."""
        return self._date.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Encode the rows with the date that they had, if a chat template writes it."""
        if self._date.restore(state_dict):
            self._train_rows = None
            self.setup("fit")

    def teardown(self, stage: str) -> None:
        """Remove the files of a dry run."""
        if self._dry_run_folder is not None:
            self._dry_run_folder.cleanup()
            self._dry_run_folder = None

    def train_dataloader(self) -> ResumableLoader:
        """Return batches of ``ids`` and ``roles`` ``[B, L]`` with ``index`` ``[B]``, the number of each training row.

        Under the trainer's ``overfit_batches`` the rows keep the order of the corpus.

        Raises:
            UserError: If there are fewer rows than ranks.
        """
        rows = self._train_rows
        if rows is None:
            raise UserError("data: expected setup('fit') before train_dataloader()")
        rank, world_size = self._rank_and_world_size()
        if len(rows) < world_size:
            raise UserError(f"corpus: expected at least one row for each of {world_size} ranks, found {len(rows)}")
        shape, overfit = (len(rows), self.batch_size, world_size, rank), getattr(self.trainer, "overfit_batches", 0)
        sampler = OrderedRowSampler(*shape, even=True) if overfit else RowSampler(*shape, seed=self.seed)
        return ResumableLoader(rows, sampler, num_workers=self.num_workers, collate_fn=self._collate())

    def first_rows(self, number: int) -> dict[str, Tensor]:
        """Return the first training rows as a batch, in the order of the corpus; fewer if there are no more.

        Args:
            number: Number of rows, at least 1.

        Raises:
            UserError: Before ``setup('fit')``.
        """
        rows = self._train_rows
        if rows is None:
            raise UserError("data: expected setup('fit') before first_rows()")
        return self._collate()([rows[index] for index in range(min(number, len(rows)))])

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Return batches of ``examples`` with ``index`` ``[B]``; none without a task."""
        return self._eval_loaders("val")

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Return batches of ``examples`` with ``index`` ``[B]``; none without a task."""
        return self._eval_loaders("test")

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """Return batches of the test prompts."""
        return self._eval_loaders("test")

    def fingerprint(self) -> str:
        """Return a fingerprint of the training rows; a run can be resumed only if it is the same."""
        return "no rows" if self._train_rows is None else self._train_rows.fingerprint()

    def places(self, indices: Sequence[int]) -> list[str]:
        """Return the file and row of each training row; this reads the corpus again.

        Args:
            indices: Numbers of rows, as in a batch's ``index``.
        """
        if self._train_rows is None:
            raise UserError("data: expected setup('fit') before places()")
        numbers = [int(self._train_rows.numbers[index]) for index in indices]
        wanted = set(numbers)  # windows of one text have the same
        locations: dict[int, str] = {}
        for number, row in enumerate(self._rows(BadRows("skip"))):
            if number in wanted:
                locations[number] = row.location
            if len(locations) == len(wanted):
                break
        return [locations[number] for number in numbers]

    def _collate(self) -> Collate:
        tokenizer, block_length, _ = self._model_encoding()
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return Collate(pad, tokenizer.eos_token_id, block_length)

    def _eval_loaders(self, split: Split) -> list[DataLoader[Any]]:
        rank, world_size = self._rank_and_world_size()
        examples = self._examples.get(split)
        return [eval_loader(examples, self.eval_batch_size, world_size, rank)] if examples else []

    def _share_dry_run_corpus(self) -> None:
        """Tell all ranks where rank zero has written the corpus of a dry run."""
        trainer = self.trainer
        if self.distill is not None and trainer is not None and getattr(trainer, "fast_dev_run", False):
            folder = None if self._dry_run_folder is None else self._dry_run_folder.name
            folder = trainer.strategy.broadcast(folder)
            if folder is not None:
                self.corpora = [str(Path(folder) / Path(self.corpora[0]).name)]

    def _choose_template(self) -> None:
        if self.chat_template is None and not self.template_options:
            return
        tokenizer = self._model_encoding()[0]
        choose_template(tokenizer, self.chat_template, self.template_options)
        decoding: Any = getattr(getattr(self.trainer, "lightning_module", None), "tokenizer", None)
        if decoding is not None and decoding is not tokenizer:  # after bind()
            choose_template(decoding, self.chat_template, self.template_options)

    def _model_encoding(self) -> tuple[PreTrainedTokenizerBase, int, int]:
        """Return the tokenizer, block length and context length that rows are encoded for."""
        if self._encoding is not None:
            return self._encoding
        if self.trainer is None:
            raise UserError("data: expected a trainer or a call of bind(tokenizer, block_length, max_length)")
        module: Any = self.trainer.lightning_module
        if not hasattr(module, "backbone"):
            raise UserError(
                f"data: expected the trainer's module to be a DMaxModule, got {type(module).__name__}; for another one "
                "call bind(tokenizer, block_length, max_length) first"
            )
        return module.tokenizer, module.backbone.block_length, module.backbone.max_length

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _rows(self, bad: BadRows) -> Iterator[Row]:
        for source in self.corpora:
            yield from read_corpus(source, self.hub_split, bad, self.columns)
        if not self.corpora and self.task is not None:
            for number, example in enumerate(self.task.examples("train", self.num_examples["train"]), start=1):
                if example.response is None:
                    raise UserError(
                        f"corpus: task {self.task_name!r} has no worked responses to learn from; give a corpus"
                    )
                yield Row(example.prompt, example.response, f"task {self.task_name}, example {number}")
