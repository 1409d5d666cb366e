"""Every decoder on the same models and prompts, in one table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar, TypeAlias

from tqdm import tqdm

from dmaxlit.bench.output_folder import holds_output, record_settings, write_results
from dmaxlit.data.identity import model_identity, task_identity
from dmaxlit.decoding import DECODERS, JointDecoder
from dmaxlit.engine import DecodeSettings, Trace
from dmaxlit.errors import UserError, check_at_least, check_not_empty, renaming_argument
from dmaxlit.evaluation.evaluate import evaluate
from dmaxlit.evaluation.results import with_current_names
from dmaxlit.files import write_json
from dmaxlit.loading import load
from dmaxlit.metrics import DecodingOrder, FinalizationParallelism, accuracy_under_parallelism
from dmaxlit.module import DMaxModule
from dmaxlit.tasks.base import requested_examples

__all__ = ["DecoderBench"]

Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Curve:
    """A decoder at a few values of the option that trades accuracy for TPF.

    Args:
        decoder: Registered name.
        sweep: The option, or None for a decoder without one.
        values: Its values.
        options: Other options, the same for all points of the curve.
    """

    decoder: str
    sweep: str | None = None
    values: tuple[Any, ...] = (None,)
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> list[dict[str, Any]]:
        """Return the options of each point."""
        return [self.options if self.sweep is None else {self.sweep: value, **self.options} for value in self.values]


#: The rows of the table; those of joint decoders for models with an auxiliary model only.
CURVES: tuple[Curve, ...] = (
    Curve("one_token"),
    Curve("threshold", "threshold", (0.95, 0.7, 0.5)),
    Curve("factor", "factor", (0.5, 1.0)),
    Curve("frechet", "delta", (0.5, 0.25, 0.0)),
    Curve("entropy_bounded", "gamma", (0.1, 0.5)),
    Curve("entropy_gate", "beta", (0.5, 2.0)),
    Curve("hierarchical", "tau_low", (0.6, 0.4)),
    Curve("hierarchical", "tau_low", (0.6, 0.4), {"tau_remask": 0.4}),
    Curve("credit", "threshold", (0.95, 0.7)),
    Curve("less", "threshold", (0.9, 0.5)),
    Curve("psd", "depth", (1, 3)),
    Curve("psd", "depth", (1, 3), {"policy": "local_leap"}),
    Curve("wino", "tau_in", (0.8, 0.6)),
    Curve("edit", "preset", ("quality", "speed")),
    Curve("generate_then_edit", "tau_draft", (0.5, 0.0)),
    Curve("generate_then_edit", "tau_draft", (0.5, 0.0), {"max_edits": 4}),
    Curve("t2m", "tau_mask", (0.9, 0.5)),
    Curve("t2m", "tau_mask", (0.9, 0.5), {"detector": "mirrored"}),
    Curve("t2m", "tau_mask", (0.9, 0.5), {"detector": "change"}),
    Curve("uniform"),
    Curve("spd", "tau_dec", (0.95, 0.5, 0.0)),
    Curve("spd", "tau_dec", (0.95, 0.5, 0.0), {"soft": False}),
    Curve("spd", "tau_dec", (0.95, 0.5, 0.0), {"soft": "slerp"}),
    Curve("codila"),
    Curve("codila", "tau", (0.5, 1.5), {"mode": "dynamic"}),
    Curve("codila_verify", "penalty", (0.5,), {"schedule_options": {"threshold": 0.5}}),
)
_FIGURES = ("accuracy", "tpf", "afp", "tau", "tau_within", "tokens_per_second", "hit_step_limit")


@dataclass
class DecoderBench:
    """Decode test prompts with every decoder at several settings, and print the table.

    Finished rows are kept under the output folder: run it again after an interruption and it resumes. The figures are
    accuracy, TPF, AUP over a decoder's settings, AFP, Kendall's tau of the order, tokens per second, and the share of
    blocks that hit the step limit. Decoders that ask an auxiliary model are left out for models without one.

    Args:
        models: LABEL=MODEL pairs. A model is a folder, .ckpt file, hub id or builtin:NAME; models with the same label
            are averaged.
        output: Folder for results.json and table.md.
        num_examples: Test prompts of the task the models were trained on.
        batch_size: Prompts decoded together.
    """

    models: Sequence[str] = ("base=builtin:chain-base", "on_policy=runs/quickstart/model")
    output: Path = Path("runs/decoders")
    num_examples: int = 256
    batch_size: int = 64
    curves: ClassVar[Sequence[Curve]] = CURVES

    def __post_init__(self) -> None:
        """Check the settings before anything is decoded."""
        self.output = Path(self.output)
        check_not_empty(models=self.models)
        check_at_least(1, num_examples=self.num_examples, batch_size=self.batch_size)
        for model in self.models:
            label, _, path = model.partition("=")
            if not label or not path:
                raise UserError(f"models: expected LABEL=MODEL, got {model!r}")

    @holds_output
    def run(self) -> str:
        """Decode what is missing, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If a model cannot be loaded, or does not know the task it was trained on.
        """
        self._check_models()
        record_settings(self.output, {})  # warns of rows by other versions
        path = self.output / "rows.json"
        finished = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        rows: dict[str, Figures] = {key: with_current_names(figures) for key, figures in finished.items()}
        points = [(curve, options) for curve in self.curves for options in curve.settings()]
        results: dict[str, dict[str, list[Figures]]] = {}
        with tqdm(total=len(self.models) * len(points), unit="row") as bar:
            for model in self.models:
                label, _, source = model.partition("=")
                with renaming_argument("models", "pretrained"):
                    module = load(source)
                identity = {**model_identity(module), **task_identity(module.task())}
                for curve, options in points:
                    if module.backbone.auxiliary is None and issubclass(DECODERS.get(curve.decoder), JointDecoder):
                        bar.update()
                        continue
                    key = json.dumps([identity, self.num_examples, self.batch_size, curve.decoder, options])
                    if key not in rows:
                        rows[key] = self._measure(module, curve.decoder, options)
                        write_json(path, rows)
                    results.setdefault(label, {}).setdefault(_point(curve, options), []).append(rows[key])
                    bar.update()
        summary = self._summary(results)
        table = format_table(summary)
        settings = {"models": list(self.models), "num_examples": self.num_examples, "batch_size": self.batch_size}
        write_results(self.output, {"settings": settings, "summary": summary}, table)
        return table

    def _check_models(self) -> None:
        """Refuse models that cannot be decoded, before others are."""
        for model in self.models:
            source = model.partition("=")[2]
            with renaming_argument("models", "pretrained"):
                module = load(source, probe=False)
            if module.task() is None:
                raise UserError(
                    f"models: expected models that know the task they were trained on, got {source!r}, which does not"
                )

    def _measure(self, module: DMaxModule, decoder: str, options: dict[str, Any]) -> Figures:
        task = module.task()
        assert task is not None, "models without one are refused"
        examples = requested_examples(task, "test", self.num_examples, "num_examples")
        result = evaluate(module, examples, decoder, options, task.max_new_tokens, self.batch_size, stop=task.stop)
        trace = Trace()  # in a separate run: tracing waits for the device, so it would distort the time
        prompts = [example.prompt for example in examples]
        settings = DecodeSettings(decoder, options, task.max_new_tokens, self.batch_size, stop=task.stop)
        module.generate_batch(prompts, settings, trace=trace)
        afp, tau, tau_within = FinalizationParallelism(), DecodingOrder(), DecodingOrder(within_block=True)
        for row in trace.rows.values():
            finalized, blocks = row.finalized(), row.block_of()
            afp.update(finalized)
            tau.update(finalized, blocks)
            tau_within.update(finalized, blocks)
        return {
            "accuracy": result.accuracy,
            "tpf": result.tpf,
            "afp": float(afp.compute()),
            "tau": float(tau.compute()),
            "tau_within": float(tau_within.compute()),
            "tokens_per_second": result.tokens_per_second,
            "hit_step_limit": result.blocks_at_step_limit / max(result.blocks, 1),
        }

    def _summary(self, results: dict[str, dict[str, list[Figures]]]) -> list[dict[str, Any]]:
        """Summarise each row of the table. AUP's ``y_max`` is the best accuracy of any decoder on any model."""
        best = max(100 * _mean(rows, "accuracy")[0] for points in results.values() for rows in points.values())
        summary = []
        for label, points in results.items():
            for curve in self.curves:
                rows_of_points = [points.get(_point(curve, options), []) for options in curve.settings()]
                if not all(rows_of_points):
                    continue
                line = [(_mean(rows, "tpf")[0], 100 * _mean(rows, "accuracy")[0]) for rows in rows_of_points]
                aup = accuracy_under_parallelism(line, best or None)
                for index, (options, rows) in enumerate(zip(curve.settings(), rows_of_points, strict=True)):
                    figures = {name: _mean(rows, name) for name in _FIGURES}
                    entry = {"label": label, "decoder": curve.decoder, "options": options, "models": len(rows)}
                    summary.append({**entry, "aup": aup if index == 0 else None, **figures})
        return summary


def _point(curve: Curve, options: dict[str, Any]) -> str:
    return json.dumps([curve.decoder, options])


def _mean(rows: Sequence[Figures], name: str) -> tuple[float, float]:
    """Return mean and standard deviation over those models where the figure is defined (an order may not be)."""
    values = [row[name] for row in rows if not math.isnan(row[name])]
    return fmean(values) if values else math.nan, stdev(values) if len(values) > 1 else 0.0


def format_table(summary: Sequence[dict[str, Any]]) -> str:
    """Format the summary as a Markdown table; the AUP of a curve is in its first row."""
    lines = [
        "| model | decoder | accuracy % | TPF | AUP | AFP | tau | tau in block | tokens/s | hit step limit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in summary:
        options = "".join(f", {name} {value}" for name, value in entry["options"].items())
        aup = "" if entry["aup"] is None else f"{entry['aup']:.0f}"
        lines.append(
            f"| {entry['label']} | {entry['decoder']}{options} | {_cell(entry, 'accuracy', 100, 1)} "
            f"| {_cell(entry, 'tpf', 1, 2)} | {aup} | {_cell(entry, 'afp', 1, 2)} | {entry['tau'][0]:.2f} "
            f"| {entry['tau_within'][0]:.2f} | {entry['tokens_per_second'][0]:.0f} "
            f"| {100 * entry['hit_step_limit'][0]:.1f}% |"
        )
    return "\n".join(lines)


def _cell(entry: dict[str, Any], name: str, scale: float, digits: int) -> str:
    mean, deviation = (scale * value for value in entry[name])
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if entry["models"] > 1 else f"{mean:.{digits}f}"
