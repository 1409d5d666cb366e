"""The table at the end of training: decoding before and after, on test prompts."""

import json
import sys
import time
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from dmaxlit.backbone.formats.judged import can_hold, is_line
from dmaxlit.backbone.formats.metadata import check_metadata
from dmaxlit.backbone.formats.model_folder import check_output_folder
from dmaxlit.callbacks._best_weights import best_weights, judge_of
from dmaxlit.callbacks._display import progress_bar
from dmaxlit.callbacks._known_baseline import (
    baseline_identity,
    decoding_conditions,
    known_baseline,
    uses_own_code,
)
from dmaxlit.callbacks._logged import log_table
from dmaxlit.callbacks._module import require_dmax_module
from dmaxlit.callbacks._order import run_after_others
from dmaxlit.data.identity import prompts_hash
from dmaxlit.decoding import DECODERS
from dmaxlit.errors import DMaxWarning, UserError, check_at_least, check_choice, printable
from dmaxlit.evaluation.card_figures import figures_of
from dmaxlit.evaluation.command_line import running_command
from dmaxlit.evaluation.evaluate import DecoderSpec, count_answers, summarize, warm_up
from dmaxlit.evaluation.hyperparameters import hyperparameters_of
from dmaxlit.evaluation.memory import peak_memory
from dmaxlit.evaluation.results import TABLE_LEGEND, DecodeResult, format_table
from dmaxlit.evaluation.validation_batches import (
    answer_limits,
    check_decoders,
    examples_in,
    is_dry_run,
    make_meter,
    rank_subset,
)
from dmaxlit.files import expanded, refuse_address, remove_unfinished, write_text
from dmaxlit.locks import exclusive
from dmaxlit.tasks import Example

__all__ = ["ComparisonReport"]

_DECODERS = (
    DecoderSpec("threshold", {"threshold": 0.95}, "threshold 0.95"),
    DecoderSpec("threshold", {"threshold": 0.5}, "threshold 0.5"),
    DecoderSpec("spd", {"tau_dec": 0.5}, "spd 0.5"),
    DecoderSpec("spd", {"tau_dec": 0.0}, "spd 0"),
)

_NOTHING = object()
_CLOSE = 0.01  # of accuracy: what is closer to the best counts as right as often


class ComparisonReport(L.Callback):
    """Compares the trained model with the one training started from, on the data module's test prompts.

    At the start of ``fit`` the starting model decodes them with every decoder; at the end the model of the last step
    does. The decoder with the highest TPF among those within a point of the best accuracy becomes the model's default.
    Then the table is printed and written to ``<output>/results.json`` with the settings of the run, and the trained
    model is exported to ``<output>/model/``, for ``dmaxlit.load``. Ranks share the prompts. It runs after all other
    callbacks, wherever it stands in the list: with weight averaging, the trained model is the averaged one.

    Checkpoints hold the starting model's results (not its weights), so that a resumed run compares with the start of
    the first one. When resuming from a checkpoint without them, or with those of other prompts, decoders or budgets,
    the table has no rows of the starting model.

    Under ``fast_dev_run`` it does nothing.

    Args:
        output: Folder to write to. Default: the trainer's ``default_root_dir``.
        decoders: The decoders, each with a different label. Default: ``threshold`` at 0.95 and 0.5, ``spd`` at 0.5
            and 0.
        baseline: Whether to compare with the starting model.
        reuse_baseline: Take the starting model's figures from ``results.json`` of this run's folder or one next to it,
            if the same weights have answered the same prompts with the same decoders on the same machine there, and
            the same task has judged the answers. Several processes decode anyway, and so do runs with a decoder,
            admission policy or task of your own, whose code may have changed.
        num_examples: Test prompts, at least 1; all of them if there are fewer.
        max_new_tokens: Token budget for an answer, at least 1. Default: the task's. Its stop texts end answers too.
        batch_size: Prompts decoded together, at least 1.
        weights: ``last``: the trained model is that of the last step. ``best``: it is that of the best checkpoint, by
            ``monitor`` of :class:`~dmaxlit.callbacks.RunCheckpoint` (``--checkpoint.monitor``) or of a
            ``ModelCheckpoint``; it is compared and exported.

    Raises:
        UserError: For a setting out of range, two decoders with the same label, or options that need a label; when
            ``fit`` starts, if there are no test prompts, or the output cannot be written or would not be read.
    """

    def __init__(
        self,
        output: str | None = None,
        decoders: list[DecoderSpec] | None = None,
        baseline: bool = True,
        num_examples: int = 1000,
        max_new_tokens: int | None = None,
        batch_size: int = 64,
        weights: Literal["last", "best"] = "last",
        reuse_baseline: bool = True,
    ) -> None:
        super().__init__()
        self.decoders = check_decoders(list(_DECODERS) if decoders is None else decoders)
        for spec in self.decoders:
            if not is_line(spec.title):
                raise UserError(
                    f"decoders: expected a label for options that no card can show, got {spec.title!r:.120}"
                )
        check_at_least(1, num_examples=num_examples, max_new_tokens=max_new_tokens, batch_size=batch_size)
        self.output, self.baseline, self.num_examples = output, baseline, num_examples
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.reuse_baseline = reuse_baseline
        self.weights = check_choice("weights", weights, ("last", "best"))
        self.base: dict[str, DecodeResult] = {}
        self.trained: dict[str, DecodeResult] = {}
        self._examples: list[Example] = []
        self._resumed = False
        self._prompts = self._answers = ""
        self._conditions: dict[str, Any] | None = None  # that the base results were got under
        self._identity: dict[str, Any] | None = None
        self._seconds = self._begin = 0.0

    def tags(self) -> list[str]:
        """Return the tags of the trained model's accuracy and TPF with each decoder, in this order."""
        return [f"comparison/{spec.title}/{name}" for spec in self.decoders for name in ("accuracy", "tpf")]

    # ---- state in checkpoints ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the starting model's results as plain values, and the time spent training."""
        results = {title: result.to_dict() for title, result in self.base.items()}
        return {
            "base": results,
            "conditions": self._conditions,
            "identity": self._identity,
            "seconds": self._training_seconds(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the results of the model that the first run started from, and the time it trained."""
        self._seconds, self._identity = float(state_dict.get("seconds", 0.0)), state_dict.get("identity")
        self._conditions = state_dict.get("conditions", self._identity)  # older states have the identity alone
        self.base = {title: DecodeResult.from_dict(payload) for title, payload in state_dict.get("base", {}).items()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note that this run does not begin with the starting model."""
        self._resumed = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Discard the examples."""
        self._examples = []

    # ---- hooks -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget an earlier run; run after the callbacks that may change the weights when training ends."""
        require_dmax_module(self, pl_module)
        if stage == "fit":  # the state of a checkpoint is read after this
            self.base, self.trained, self._conditions, self._identity = {}, {}, None, None
            self._seconds, self._begin, self._resumed = 0.0, 0.0, False
        run_after_others(trainer, self)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what would fail at the end, then decode with the starting model."""
        if is_dry_run(trainer):
            return
        self._check_output(trainer)
        module: Any = pl_module
        check_metadata(module.metadata(), "output")  # of the export at the end
        if self.weights == "best":
            judge_of(trainer)
        self._examples = self._test_examples(trainer)
        limits = answer_limits(self.max_new_tokens, trainer, pl_module)
        task = getattr(getattr(trainer, "datamodule", None), "task", None)
        conditions = decoding_conditions(
            pl_module, task, self.decoders, self._prompts, self._answers, limits, self.batch_size
        )
        if not self.baseline:
            self.base = {}
        elif self.base or self._resumed:
            self._keep_comparable(conditions)
        else:
            self._conditions = conditions
            self.base = self._known_base(trainer, pl_module, task) or self._decode_all(
                trainer, pl_module, "starting model"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._begin = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decode with the trained model, print the table, write everything."""
        if is_dry_run(trainer):
            return
        self._seconds, self._begin = self._training_seconds(), 0.0
        module: Any = pl_module
        with best_weights(trainer, module) if self.weights == "best" else nullcontext():
            self.trained = self._decode_all(trainer, pl_module, "trained model")
            self._describe(module)
            if trainer.is_global_zero:
                self._write(trainer, pl_module)
            module.export(self._folder(trainer) / "model")  # on every rank: a sharded model is gathered
        trainer.strategy.barrier("comparison report")

    # ---- implementation ----------------------------------------------------------------------------------------------

    def _training_seconds(self) -> float:
        """Return the time spent training, by all processes of the run."""
        return self._seconds + (time.monotonic() - self._begin if self._begin else 0.0)

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir if self.output is None else expanded(self.output))

    def _check_output(self, trainer: L.Trainer) -> None:
        refuse_address(trainer.default_root_dir if self.output is None else self.output, "output")
        folder = self._folder(trainer)
        model = folder / "model"
        try:
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output: expected a folder to write to, got {str(folder)!r} ({error.strerror})") from error
        check_output_folder(model)

    def _test_examples(self, trainer: L.Trainer) -> list[Example]:
        """Return this rank's share of the first ``num_examples`` test prompts."""
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            raise UserError("comparison: expected a data module with test prompts, got loaders alone")
        data.setup("test")
        test_examples = examples_in(data.test_dataloader())
        if not test_examples and trainer.is_global_zero:
            raise UserError("comparison: expected test prompts in the data module, found none")
        examples = rank_subset(test_examples, self.num_examples, trainer)
        asked = [(example.prompt, example.answer) for example in examples]
        prompts, answers = zip(*_of_all_ranks(trainer, asked), strict=True)
        self._prompts, self._answers = prompts_hash(prompts), prompts_hash(answers)
        return examples

    def _keep_comparable(self, conditions: dict[str, Any]) -> None:
        """Drop those results of the first run that were got in another way than those of this run will be."""
        stored = {**conditions, "stop": [], **(self._conditions or {})}  # older ones decoded without stop texts
        shared = [name for name in conditions if name != "decoders"]
        is_same = all(stored[name] == conditions[name] for name in shared)
        specs, decoders = {spec.title: spec for spec in self.decoders}, stored["decoders"]
        comparable = {
            title: result
            for title, result in self.base.items()
            if is_same
            and title in specs
            and (result.decoder, result.options) == (specs[title].name, specs[title].options)
            and decoders.get(title) == conditions["decoders"][title]
        }
        missing = [title for title in specs if title not in comparable]
        if missing:
            rank_zero_warn(
                "the checkpoint that training resumes from has no results of the starting model for "
                f"{', '.join(missing)} with this run's prompts and settings; the comparison is without them",
                category=DMaxWarning,
            )
        if missing or len(comparable) < len(self.base):
            self._identity = None  # it names all decoders, and these are the results of some
        self.base, self._conditions = comparable, conditions

    def _known_base(self, trainer: L.Trainer, module: Any, task: Any) -> dict[str, DecodeResult]:
        """Return the starting model's figures if another run has them; an empty mapping otherwise."""
        if trainer.world_size > 1 or self._conditions is None or uses_own_code(task, self.decoders):
            return {}
        self._identity = baseline_identity(module, self._conditions)
        known = known_baseline(self._folder(trainer), self._identity) if self.reuse_baseline else None
        if known is None:
            return {}
        rank_zero_info(f"the starting model's figures are those of {known[0]}")
        return known[1]

    def _decode_all(self, trainer: L.Trainer, module: Any, model_name: str) -> dict[str, DecodeResult]:
        limits = answer_limits(self.max_new_tokens, trainer, module)
        results = {}
        total = len(self.decoders) * len(self._examples)
        with module.unsharded(), progress_bar(trainer, total, f"decoding with the {model_name}") as advance:
            for spec in self.decoders:
                meter = make_meter(module)
                warm_up(module, self._examples[: self.batch_size], spec, limits)
                count_answers(meter, module, self._examples, spec, limits, self.batch_size, progress=advance)
                results[spec.title] = summarize(meter, spec)
        return results

    def _describe(self, module: Any) -> None:
        """Store with the model how it is best decoded, and the figures of its card."""
        storable = [
            spec
            for spec in self.decoders
            if spec.name in DECODERS and spec.window == 1 and can_hold(spec.name, spec.options)
        ]
        if storable:
            best = max(self.trained[spec.title].accuracy for spec in storable)
            close = [spec for spec in storable if self.trained[spec.title].accuracy >= best - _CLOSE]
            chosen = max(close, key=lambda spec: self.trained[spec.title].tpf)
            module.set_decoding(chosen.name, **chosen.options)
            module.judged_decoding = module.decoding
        rows = [{"label": title, **figures_of(result)} for title, result in self.trained.items()]
        module.figures = {"task": module.task_name or "", "command": running_command() or "", "rows": rows}

    def _write(self, trainer: L.Trainer, module: Any) -> None:
        folder = self._folder(trainer)
        models = [("base", self.base), ("trained", self.trained)]
        rows = [(model, title, result) for model, results in models for title, result in results.items()]
        table = format_table([(f"{model}, {title}", result) for model, title, result in rows])
        sys.stdout.write(printable(f"\n{table}\n"))
        figures = [{"model": model, "label": title, **result.to_dict()} for model, title, result in rows]
        log_table(trainer, "decode/comparison", figures, f"{table}\n{TABLE_LEGEND}")
        values = [value for result in self.trained.values() for value in (result.accuracy, result.tpf)]
        for logger in trainer.loggers:
            logger.log_metrics(dict(zip(self.tags(), values, strict=True)), trainer.global_step)
        payload = {
            **{name: value for name, value in module.metadata().items() if name != "figures"},  # the rows below
            "command": running_command(),
            **module.trained_on(),
            "seed": module.seed,
            "steps": module.weights_step(),
            "weights": self.weights,
            "settings": hyperparameters_of(trainer, module),
            "cost": {"train_seconds": self._seconds, "peak_memory_mib": peak_memory(module.device)},
            "prompts": self._prompts,
            "baseline": self._identity,
            **vars(answer_limits(self.max_new_tokens, trainer, module)),
            "rows": figures,
        }
        with exclusive(folder / "results.json", "output"):
            remove_unfinished(folder, "results.json")
            write_text(folder / "results.json", json.dumps(payload, indent=2, allow_nan=False) + "\n")


def _of_all_ranks(trainer: L.Trainer, values: list[Any]) -> list[Any]:
    """Return the values of all ranks, which hold every n-th each, in order."""
    if trainer.world_size == 1:
        return values
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, values)
    return [value for row in zip_longest(*gathered, fillvalue=_NOTHING) for value in row if value is not _NOTHING]
