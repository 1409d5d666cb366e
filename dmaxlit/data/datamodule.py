"""The data module: a corpus of pairs or plain texts for training, and a task's prompts for evaluation."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.bound_model import BoundModel
from dmaxlit.data.chat_template import choose_template
from dmaxlit.data.chat_turns import ChatTurns, ToolTurns, Turns
from dmaxlit.data.corpora import Corpora
from dmaxlit.data.dataset import Collate
from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.data.distilled_corpus import DistilledCorpus
from dmaxlit.data.encoding import EosFill, check_eos_fill
from dmaxlit.data.eval_prompts import EvalPrompts
from dmaxlit.data.mixture import check_weights
from dmaxlit.data.row_encoding import RowEncoder
from dmaxlit.data.row_forms import COLUMNS
from dmaxlit.data.sampling import ResumableLoader
from dmaxlit.data.stream_loader import StreamLoader
from dmaxlit.data.streamed_rows import StreamedRows, batches_ahead, check_streaming, check_trainer
from dmaxlit.data.template_date import TemplateDate
from dmaxlit.data.token_batches import check_batches, check_max_tokens
from dmaxlit.data.training_rows import TrainingRows
from dmaxlit.errors import UserError, check_at_least, check_not_none
from dmaxlit.files import expanded, is_pattern
from dmaxlit.randomness import run_seed
from dmaxlit.tasks import TASKS, Split, Task
from dmaxlit.tasks import task as task_by_name
from dmaxlit.tasks.columns import check_columns
from dmaxlit.tasks.records import BadRows, OnBadRow

__all__ = ["SelfDistilledDataModule"]

_MAX_PROCESSES = 256  # more would only use up the memory


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
        num_train: Number of training rows taken from the task if there is no corpus. Default: 10,000, or all if it has
            fewer.
        num_val: Number of validation prompts. Default: 128, or all if the task has fewer.
        num_test: Number of test prompts. Default: 1000, or all if the task has fewer.
        batch_size: Training rows in one rank's batch; with ``max_tokens`` the most.
        eval_batch_size: Prompts in one rank's batch in validation and test.
        max_length: Most tokens of a row, EOS included; None for the model's context length.
        eos_fill: Supervised EOS tokens that end a response: ``block`` fills the block of the first one, a number is
            their count, or fewer where ``max_length`` ends. What a count leaves of its last block is EOS too, corrupted
            like the rest but not in the loss.
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
        cache_dir: Folder in which the encoded rows of a corpus of 8 MiB or more are kept for later starts and other
            ranks. Default: ``$HF_HOME/dmaxlit``, that is ``~/.cache/huggingface/dmaxlit``.
        num_proc: Number of processes that encode such a corpus. Default: one for each core, at most 16.
        group_by_length: Train on batches whose rows have similar lengths, so that little of them is padding.
        weights: Share of each corpus in an epoch, relative to the others': ``[3, 1]`` for three rows of the first to
            one of the second. Default: each row comes once an epoch.
        streaming: Read the corpus while training, from its files or the hub, instead of encoding it first: for corpora
            that do not fit the disk or are not to be downloaded. Rows are shuffled ``shuffle_buffer`` at a time.
        shuffle_buffer: Rows of a stream that are shuffled together; they are in memory, and a resumed run reads as many
            again. Default: 10,000.
        turns: Turns of a conversation that are learnt: the ``last``, or ``all`` of the assistant, each as a row of its
            own with what comes before it as prompt.
        tool_turns: Calls and answers of tools in conversations: ``refuse`` such rows, leave them to the chat
            ``template``, where calls are not learnt, or make them ``text`` in the form of Hermes and Qwen, which is.
        max_tokens: Train on batches of as many rows of similar lengths as fit so many tokens with their padding, at
            most ``batch_size``.

    Raises:
        UserError: For a setting out of range, or neither corpus nor task.
    """

    def __init__(
        self,
        corpus: str | list[str] | None = None,
        task: Task | str | None = None,
        task_options: dict[str, Any] | None = None,
        num_train: int | None = None,
        num_val: int | None = None,
        num_test: int | None = None,
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
        cache_dir: str | None = None,
        num_proc: int | None = None,
        group_by_length: bool = False,
        weights: list[float] | None = None,
        streaming: bool = False,
        shuffle_buffer: int | None = None,
        turns: Turns = "last",
        tool_turns: ToolTurns = "refuse",
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.corpora = list(map(expanded, [corpus] if isinstance(corpus, str) else corpus or []))
        if task_options and not isinstance(task, str):
            raise UserError(f"task_options: expected a task given by name, got {task!r}")
        self.task: Task | None = task_by_name(task, **(task_options or {})) if isinstance(task, str) else task
        if not self.corpora and self.task is None:
            raise UserError("data: expected a corpus or a task, got neither")
        check_not_none(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers)
        check_at_least(1, num_train=num_train, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(1, num_proc=num_proc, max_length=max_length)
        check_at_least(0, num_val=num_val, num_test=num_test, num_workers=num_workers)
        for name, number in (("num_workers", num_workers), ("num_proc", num_proc)):
            if number is not None and number > _MAX_PROCESSES:
                raise UserError(f"{name}: expected at most {_MAX_PROCESSES} processes, got {number}")
        check_eos_fill(eos_fill)
        BadRows(on_bad_row)  # refuses an unknown policy
        self.num_train = num_train
        self.num_examples: dict[Split, int | None] = {"val": num_val, "test": num_test}
        self.batch_size, self.num_workers = batch_size, num_workers
        self.max_length, self.eos_fill, self.on_bad_row = max_length, eos_fill, on_bad_row
        self.hub_split, self.cache_dir, self.num_proc = hub_split, cache_dir, num_proc
        self.chat_template, self.template_options = chat_template, template_options
        self.columns = check_columns(columns, COLUMNS)
        if columns and not self.corpora:
            raise UserError(f"columns: expected none without a corpus (a task has columns of its own), got {columns}")
        check_weights(weights, len(self.corpora))
        self.group_by_length, self.weights = group_by_length, weights
        self._chat = ChatTurns(turns, tool_turns)
        options = {"group_by_length": group_by_length, "weights": weights, "cache_dir": cache_dir, "num_proc": num_proc}
        options |= {"max_tokens": max_tokens, "turns": None if turns == "last" else turns}
        self._shuffle_buffer = check_streaming(streaming, shuffle_buffer, bool(self.corpora), **options)
        check_max_tokens(max_tokens, group_by_length, weights)
        self.max_tokens = max_tokens
        self.seed = run_seed() if seed is None else seed
        self._distilled: DistilledCorpus | None = None
        if distill is not None:
            distill.check()
            if self.task is None or len(self.corpora) != 1 or not self.corpora[0].endswith(".jsonl"):
                raise UserError(f"distill: expected a task and one .jsonl corpus to write, got {task!r} and {corpus!r}")
            if is_pattern(self.corpora[0]):
                pattern = f"the pattern {self.corpora[0]!r} (null reads its files)"
                raise UserError(f"distill: expected one .jsonl corpus to write, got {pattern}")
            of_rows = self._chat, on_bad_row, self.columns
            self._distilled = DistilledCorpus(self.corpora[0], self.task, distill, batch_size, *of_rows)
        self._model: BoundModel | None = None
        self._date = TemplateDate()
        self._train_rows: TrainingRows | StreamedRows | None = None
        self._prompts: EvalPrompts | None = None
        if self.task is not None:
            self._prompts = EvalPrompts(self.task, self.num_examples, eval_batch_size, on_bad_row)

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
        self._model = BoundModel(tokenizer, block_length, max_length)

    def setup(self, stage: str | None = None) -> None:
        """Check the stage's prompts, and encode the rows that it needs, or take them from the cache.

        A corpus that is to be distilled and does not exist is written before, if a trainer fits; all of its ranks do
        that together.

        Raises:
            UserError: For a corpus that is missing or empty, fewer rows or prompts than there are ranks, a bad row or
                prompt under ``on_bad_row="error"``, rows longer than ``max_tokens``, a chat template that does not
                exist, settings of a trainer that need the number of batches, which a stream does not know, or if
                distilling fails; see :func:`~dmaxlit.data.distill.distill`.
        """
        self._choose_template()
        if self._prompts is not None:
            is_bound = self._model is not None or self.trainer is not None
            self._prompts.prepare(stage, self._bound_model() if is_bound else None, self._num_eval_ranks(stage))
        if stage in ("fit", None):
            self._train_rows = self._read_rows()

    def _read_rows(self) -> TrainingRows | StreamedRows:
        """Return the rows to learn from; what can be refused without them is refused before they are distilled."""
        model = self._bound_model()
        if self._shuffle_buffer is not None:
            check_trainer(self.trainer)
        check_batches(self.max_tokens, model.block_length, self._keeps_order())
        tokenizer = self._date.apply(model.tokenizer, self.trainer)
        limit = model.max_length if self.max_length is None else min(self.max_length, model.max_length)
        encoder = RowEncoder(tokenizer, model.block_length, limit, self.eos_fill, self.on_bad_row)
        if self._distilled is not None:
            if (trainer := self._fitting_trainer()) is not None:
                self._distilled.write(trainer)
            self.corpora = [self._distilled.path(self.trainer)]
        if self._shuffle_buffer is not None:
            source = self.corpora, self.hub_split, self.columns
            return StreamedRows(*source, encoder, self._shuffle_buffer, self._chat)
        together = [self.corpora] if self.weights is None else [[source] for source in self.corpora]
        of_part = self.hub_split, self.columns, self.task, self.num_train, self._chat
        rows = TrainingRows(
            [Corpora(part, *of_part) for part in together], self.weights, encoder, self.cache_dir, self.num_proc
        )
        rows.check(self._rank_and_world_size()[1], self.max_tokens)  # loaders are made after a baseline is decoded
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the date that a chat template wrote into the rows."""
        return self._date.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Encode the rows with the date that they had, if a chat template writes it."""
        if self._date.restore(state_dict):
            self.setup("fit")

    def teardown(self, stage: str) -> None:
        """Remove the files of a dry run."""
        if self._distilled is not None:
            self._distilled.clean_up()

    def train_dataloader(self) -> ResumableLoader | StreamLoader:
        """Return batches of ``ids`` and ``roles`` ``[B, L]`` with ``index`` ``[B]``, the number of each training row.

        With ``weights``, the number of all rows is added to it each time that the row's corpus begins again. Under the
        trainer's ``overfit_batches`` the rows keep the order of the corpus.

        Raises:
            UserError: Before ``setup('fit')``, or if there are fewer rows than ranks.
        """
        rows = self._train_rows
        if rows is None:
            raise UserError("data: expected setup('fit') before train_dataloader()")
        rank, world_size = self._rank_and_world_size()
        if isinstance(rows, StreamedRows):
            seed, ahead = None if self._keeps_order() else self.seed, batches_ahead(self.trainer)
            return rows.loader(self._collate(), self.batch_size, world_size, rank, seed, self.num_workers, ahead)
        shape, grouping = (self.batch_size, world_size, rank), (self.group_by_length, self.max_tokens)
        sampler = rows.sampler(*shape, self.seed, self._keeps_order(), *grouping)
        return ResumableLoader(rows.pairs, sampler, num_workers=self.num_workers, collate_fn=self._collate())

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
        return rows.first(self._collate(), number)

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
        return self._train_rows.places(indices)

    def _collate(self) -> Collate:
        model = self._bound_model()
        tokenizer = model.tokenizer
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return Collate(pad, tokenizer.eos_token_id, model.block_length)

    def _eval_loaders(self, split: Split) -> list[DataLoader[Any]]:
        return [] if self._prompts is None else self._prompts.loaders(split, *self._rank_and_world_size())

    def _num_eval_ranks(self, stage: str | None) -> int:
        """Return the number of ranks that each need a prompt: one where the trainer asks for none."""
        trainer = self.trainer
        if trainer is None:
            return 1
        of_stage = {"test": trainer.limit_test_batches, "predict": trainer.limit_predict_batches}
        return trainer.world_size if of_stage.get(stage or "fit", trainer.limit_val_batches) else 1

    def _choose_template(self) -> None:
        if self.chat_template is None and not self.template_options:
            return
        tokenizer = self._bound_model().tokenizer
        choose_template(tokenizer, self.chat_template, self.template_options)
        decoding: Any = getattr(getattr(self.trainer, "lightning_module", None), "tokenizer", None)
        if decoding is not None and decoding is not tokenizer:  # after bind()
            choose_template(decoding, self.chat_template, self.template_options)

    def _fitting_trainer(self) -> L.Trainer | None:
        trainer = self.trainer
        return trainer if trainer is not None and trainer.state.fn == TrainerFn.FITTING else None

    def _bound_model(self) -> BoundModel:
        return BoundModel.of(self.trainer) if self._model is None else self._model

    def _keeps_order(self) -> bool:
        return bool(getattr(self.trainer, "overfit_batches", 0))

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
