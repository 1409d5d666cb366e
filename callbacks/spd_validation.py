"""Decodes the validation prompts during training, to follow accuracy and tokens per forward."""

from collections.abc import Sequence
from typing import Any

import lightning as L

from dmaxlit.callbacks._curve_files import draw_curve, write_curve_files
from dmaxlit.callbacks._decode_tags import BEST_TPF, decode_tags, decoders_text, refuse_unknown_monitors
from dmaxlit.callbacks._display import folder_of_run, progress_bar
from dmaxlit.callbacks._logged import log_figure, log_table
from dmaxlit.callbacks._module import require_dmax_module
from dmaxlit.callbacks._order import run_after_others
from dmaxlit.engine import Trace
from dmaxlit.errors import check_at_least, check_fraction
from dmaxlit.evaluation.curve_figure import curve_table
from dmaxlit.evaluation.curve_point import CurvePoint
from dmaxlit.evaluation.curves import Curves
from dmaxlit.evaluation.evaluate import DecoderSpec, count_answers, summarize, warm_up
from dmaxlit.evaluation.first_validation import batches_to_validation, warn_of_late_validation
from dmaxlit.evaluation.limits import Limits
from dmaxlit.evaluation.results import TABLE_LEGEND, DecodeResult, format_table
from dmaxlit.evaluation.samples import Sample, sample_rows, samples_text
from dmaxlit.evaluation.trace_figure import trace_figure
from dmaxlit.evaluation.validation_batches import (
    answer_limits,
    check_decoders,
    examples_in,
    examples_of,
    is_dry_run,
    make_meter,
    rank_subset,
)
from dmaxlit.metrics import DecodeMeter
from dmaxlit.tasks import Example

__all__ = ["SPDValidation"]

_DECODERS = (DecoderSpec("spd", {"tau_dec": 0.5}), DecoderSpec("threshold", {"threshold": 0.95}))
_CURVE = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95)


class SPDValidation(L.Callback):
    """Decodes the validation prompts with SPD and with a baseline, and logs the results.

    It works on the batches of the validation loader, so ranks share the prompts, and the trainer's validation settings
    (``check_val_every_n_epoch``, ``val_check_interval``, ``limit_val_batches``) determine when and how much it decodes.
    For each decoder it logs, over all ranks,

    - ``decode/<label>/accuracy``: share of answers the checker accepts,
    - ``decode/<label>/tpf``: tokens per forward,
    - ``decode/<label>/tps``: tokens per second of one device,
    - ``decode/<label>/finished``: share of answers that end with EOS or a stop text,
    - ``decode/<label>/hit_step_limit``: share of blocks closed at the step limit, before they had converged,
    - ``decode/best_tpf``, with ``min_accuracy``: the highest TPF of a decoder of at least that accuracy; 0 if none,
    - ``decode/decoders`` (text), once: the decoder and options behind each label, and what the figures are,
    - ``decode/<label>/samples`` (text): the first prompts and their answers,
    - ``decode/<label>/trace`` (image), with ``num_traces``: their decoding forward by forward.

    :class:`~dmaxlit.callbacks.RunCheckpoint`, Lightning's ``ModelCheckpoint`` and ``EarlyStopping`` can monitor the
    metrics; one that is none of them is refused when ``fit`` starts. At the end of ``fit`` it logs
    ``decode/curve`` (figure and text), accuracy against TPF over thresholds. Whatever the logger, it writes the curve
    to ``curve.json``, ``.csv``, ``.png``, ``.svg`` and ``.pdf`` in the run's folder, with the settings of the run.
    ``test`` logs the same for the test prompts, as ``test/<label>/...`` and ``test/curve``, and writes
    ``test_curve.*``. The sanity check decodes nothing; a run that ends before its first validation is warned of.

    Args:
        decoders: The decoders, each with a different label. Default: ``spd`` with ``tau_dec`` 0.5, ``threshold``
            with 0.95.
        max_new_tokens: Token budget for an answer, at least 1. Default: the task's. Its stop texts end answers too.
        batch_size: Prompts decoded together, at least 1.
        num_samples: Answers of each decoder logged as text; 0 for none.
        curve: Thresholds of the curve, each in [0, 1]; None or empty for no curve.
        curve_examples: Prompts of each point of the curve, at least 1, the first of the last validation.
        num_traces: Answers of each decoder drawn forward by forward at each validation; 0 for none. Their prompts, the
            first, are decoded once more, because a trace makes every forward wait for the device.
        min_accuracy: Accuracy in [0, 1] that a decoder has to reach for ``best_tpf``. None: it is not logged.

    Raises:
        UserError: For a setting out of range, or two decoders with the same label.
    """

    def __init__(
        self,
        decoders: list[DecoderSpec] | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 64,
        num_samples: int = 4,
        curve: Sequence[float] | None = _CURVE,
        curve_examples: int = 128,
        num_traces: int = 0,
        min_accuracy: float | None = None,
    ) -> None:
        super().__init__()
        self.decoders = check_decoders(list(_DECODERS) if decoders is None else decoders)
        check_at_least(1, max_new_tokens=max_new_tokens, batch_size=batch_size, curve_examples=curve_examples)
        check_at_least(0, num_samples=num_samples, num_traces=num_traces)
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.num_samples, self.curve_examples, self.num_traces = num_samples, curve_examples, num_traces
        self.min_accuracy = None if min_accuracy is None else check_fraction("min_accuracy", min_accuracy)
        self.curve = sorted(set(curve or ()))
        self._curve_specs = {spec.tag: _over_thresholds(spec, self.curve) for spec in self.decoders}
        self.results: dict[str, DecodeResult] = {}
        self.curves = Curves()
        self._meters: dict[str, DecodeMeter] = {}
        self._samples: dict[str, list[Sample]] = {}
        self._seen: list[Example] = []
        self._warm: set[str] = set()

    def curve_points(self) -> list[dict[str, Any]]:
        """Return the points of the last curve as plain values: label, threshold and result of each."""
        return curve_table(self.curves)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget an earlier run; run after the callbacks that may change the weights when training ends."""
        require_dmax_module(self, pl_module)
        if stage == "fit":
            self.results, self.curves, self._meters, self._seen, self._warm = {}, Curves(), {}, [], set()
        run_after_others(trainer, self)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse callbacks that monitor what is not logged."""
        if not is_dry_run(trainer):
            labels = [spec.tag for spec in self.decoders]
            refuse_unknown_monitors(trainer, labels, self.min_accuracy is not None)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of a run that ends before its first validation; log which decoder each label is."""
        if not is_dry_run(trainer):
            warn_of_late_validation(trainer, "SPDValidation", "decodes nothing")
            self._log_decoders(trainer, "decode")

    # ---- hooks of the validation and test loops ----------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the counts of the last epoch."""
        if not trainer.sanity_checking:
            self._reset(pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset earlier counts."""
        self._reset(pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Decode this rank's batch with every decoder."""
        if not trainer.sanity_checking:
            self._decode(trainer, pl_module, examples_of(batch))

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Decode this rank's batch with every decoder."""
        self._decode(trainer, pl_module, examples_of(batch))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the counts of all ranks."""
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "decode")
            self._draw_traces(trainer, pl_module, "decode")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the counts of all ranks, and the curve."""
        self._log_decoders(trainer, "test")
        self._log(trainer, pl_module, "test")
        self._draw_traces(trainer, pl_module, "test")
        self._draw_curve(trainer, pl_module, "test", self._seen)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curve of the trained model, if the run has come to a validation."""
        if self._meters:
            self._draw_curve(trainer, pl_module, "decode", self._seen)
        elif trainer.enable_validation and trainer.fit_loop.total_batch_idx + 1 >= batches_to_validation(trainer):
            # It came to the last one in an earlier process, which was interrupted, or ended by a lower limit.
            data: Any = getattr(trainer, "datamodule", None)
            examples = [] if data is None else examples_in(data.val_dataloader(), trainer.limit_val_batches)
            self._draw_curve(trainer, pl_module, "decode", examples)

    # ---- implementation ----------------------------------------------------------------------------------------------

    def _reset(self, module: Any) -> None:
        self._meters = {spec.tag: make_meter(module) for spec in self.decoders}
        self._samples = {spec.tag: [] for spec in self.decoders}
        self._seen = []

    def _decode(self, trainer: L.Trainer, module: Any, examples: list[Example]) -> None:
        limits = answer_limits(self.max_new_tokens, trainer, module)
        for spec in self.decoders:
            self._warm_up(module, examples, spec, limits)
            answers = count_answers(self._meters[spec.tag], module, examples, spec, limits, self.batch_size)
            missing = self.num_samples - len(self._samples[spec.tag])
            self._samples[spec.tag] += [
                Sample(example, answer, right)
                for example, (answer, right) in list(zip(examples, answers, strict=True))[: max(missing, 0)]
            ]
        self._seen += examples

    def _warm_up(self, module: Any, examples: list[Example], spec: DecoderSpec, limits: Limits) -> None:
        if spec.tag not in self._warm:
            warm_up(module, examples[: self.batch_size], spec, limits)
            self._warm.add(spec.tag)

    def _log_decoders(self, trainer: L.Trainer, family: str) -> None:
        titles = {spec.tag: spec.settings().title for spec in self.decoders}
        rows = [{"label": label, "decoder": title} for label, title in titles.items()]
        log_table(trainer, f"{family}/decoders", rows, decoders_text(family, titles, self.min_accuracy))

    def _log(self, trainer: L.Trainer, module: L.LightningModule, family: str) -> None:
        for spec in self.decoders:
            result = summarize(self._meters[spec.tag], spec)
            if result.num_examples == 0:
                return
            self.results[spec.tag] = result
            speed = result.tokens_per_second
            values = (result.accuracy, result.tpf, speed, result.finished, result.hit_step_limit)
            tags = decode_tags(family, [spec.tag], has_best=False)
            # Every rank has the same value already; sync_dist avoids a warning of Lightning.
            module.log_dict(dict(zip(tags, values, strict=True)), sync_dist=True)
            if self._samples[spec.tag]:
                samples, title = self._samples[spec.tag], spec.settings().title
                rows = sample_rows(samples, title)
                log_table(trainer, f"{family}/{spec.tag}/samples", rows, samples_text(samples, title))
        if self.min_accuracy is not None:
            module.log(f"{family}/{BEST_TPF}", self._best_tpf(self.min_accuracy), sync_dist=True)

    def _best_tpf(self, min_accuracy: float) -> float:
        """Return the highest TPF among decoders that are accurate enough; 0 if none is."""
        return max((r.tpf for r in self.results.values() if r.accuracy >= min_accuracy), default=0.0)

    def _draw_traces(self, trainer: L.Trainer, module: Any, family: str) -> None:
        """Decode the first prompts of rank zero once more and draw how. All ranks must call it."""
        if not self.num_traces or is_dry_run(trainer):
            return
        prompts = [example.prompt for example in self._seen[: self.num_traces]]
        limits = answer_limits(self.max_new_tokens, trainer, module)
        with module.unsharded():
            for spec in self.decoders if prompts and trainer.is_global_zero else ():
                trace = Trace()
                settings = spec.settings(**vars(limits), batch_size=self.batch_size)
                answers = module.generate_batch(prompts, settings, trace=trace)
                figure = trace_figure(trace, [answer.text for answer in answers])
                log_figure(trainer, f"{family}/{spec.tag}/trace", figure)

    def _draw_curve(self, trainer: L.Trainer, module: Any, family: str, examples: list[Example]) -> None:
        """Decode the first of this rank's prompts at every threshold. All ranks must call it."""
        if not self.curve or is_dry_run(trainer):
            return
        examples = rank_subset(examples, self.curve_examples, trainer)
        limits = answer_limits(self.max_new_tokens, trainer, module)
        num_points = sum(len(specs) for specs in self._curve_specs.values())
        curves = Curves()
        bar = progress_bar(trainer, num_points * len(examples), "accuracy-TPF curve")
        with module.unsharded(), bar as advance:
            for decoder in self.decoders:
                tag = decoder.tag
                self._warm_up(module, examples, decoder, limits)
                curves[tag] = []
                for threshold, spec in self._curve_specs[tag]:
                    meter = make_meter(module)
                    count_answers(meter, module, examples, spec, limits, self.batch_size, progress=advance)
                    curves[tag].append(CurvePoint(threshold, summarize(meter, spec)))
        num_prompts = next(iter(curves.values()))[0].result.num_examples
        self.curves = curves if num_prompts else Curves()
        folder = folder_of_run(trainer)
        if trainer.is_global_zero and num_prompts:
            split, name = ("test", "test_curve") if family == "test" else ("validation", "curve")
            log_figure(trainer, f"{family}/curve", draw_curve(module, self.curves, split))
            if folder is not None:
                write_curve_files(trainer, module, self.curves, split, examples, folder / name)
            rows = [
                (tag if point.threshold is None else f"{tag} {point.threshold:g}", point.result)
                for tag, line in self.curves.items()
                for point in line
            ]
            text = f"{format_table(rows)}\n{TABLE_LEGEND}"
            log_table(trainer, f"{family}/curve", curve_table(self.curves), text)


def _over_thresholds(spec: DecoderSpec, thresholds: Sequence[float]) -> list[tuple[float | None, DecoderSpec]]:
    """Return the decoder at each threshold, or unchanged if it has none; refuse thresholds out of range."""
    if spec.swept is None:
        return [(None, spec)]
    return [(threshold, spec.at(threshold)) for threshold in thresholds]
