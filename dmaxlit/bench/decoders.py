"""The benchmark behind the README's table of decoders: every rule on the same models and prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dmaxlit.bench.files import write_json
from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule

__all__ = ["SETTINGS", "DecoderBench"]

#: Decoders, each at the settings that show what it trades.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "one_token": [{}],
    "threshold": [{"threshold": 0.95}, {"threshold": 0.7}, {"threshold": 0.5}],
    "factor": [{"factor": 0.5}, {"factor": 1.0}],
    "entropy_bounded": [{"gamma": 0.1}, {"gamma": 0.5}],
    "hierarchical": [{"tau_low": 0.6}, {"tau_low": 0.4}, {"tau_low": 0.4, "tau_remask": 0.4}],
    "credit": [{"threshold": 0.95}, {"threshold": 0.7}],
    "psd": [{"depth": 1}, {"depth": 3}, {"depth": 3, "policy": "local_leap"}],
    "wino": [{"tau_in": 0.8}, {"tau_in": 0.6}],
    "edit": [{"preset": "quality"}, {"preset": "speed"}],
    "generate_then_edit": [{"tau_draft": 0.5}, {"tau_draft": 0.0}, {"tau_draft": 0.0, "max_edits": 4}],
    "uniform": [{}],
    "spd": [{"tau_dec": 0.95}, {"tau_dec": 0.5}, {"tau_dec": 0.0}, {"tau_dec": 0.5, "soft": False}],
}
_FIGURES = ("accuracy", "tpf", "afp", "tau", "tau_within", "tokens_per_second", "capped")


@dataclass
class DecoderBench:
    """Decode test prompts with every decoder and tabulate accuracy, TPF, AUP, AFP, order, speed and cap hits.

    Finished rows are kept under ``output``: run it again after an interruption and it goes on.

    Args:
        models: ``LABEL=MODEL`` pairs; figures of models with one label (training seeds) are averaged.
        output: Folder for ``rows.jsonl``, ``results.json`` and ``table.md``.
        num_examples: Unseen test prompts.
        batch_size: Prompts decoded together.
        settings: Decoders and their settings.
    """

    models: Sequence[str] = ("base=builtin:chain-base", "on_policy=runs/quickstart/model")
    output: Path = Path("runs/decoders")
    num_examples: int = 256
    batch_size: int = 64
    settings: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: SETTINGS)

    def __post_init__(self) -> None:
        """Check the settings before anything is decoded."""
        self.output = Path(self.output)
        if self.num_examples < 1:
            raise UserError(f"num_examples: expected at least 1, got {self.num_examples}")
        for model in self.models:
            label, _, path = model.partition("=")
            if not label or not path:
                raise UserError(f"models: expected LABEL=MODEL, got {model!r}")

    def run(self) -> str:
        """Decode what is missing, write ``results.json`` and ``table.md``, and return the table."""
        from dmaxlit.loading import load

        rows = self._rows()
        total = len(self.models) * sum(map(len, self.settings.values()))
        with tqdm(total=total, initial=len(rows), unit="row") as bar:
            for model in self.models:
                missing = [key for key in self._keys(model) if key not in rows]
                if not missing:
                    continue
                module = load(model.partition("=")[2])
                for key in missing:
                    _, decoder, options = json.loads(key)
                    rows[key] = self._measure(module, decoder, options)
                    self._write(rows)
                    bar.update()
        summary = self._summary(rows)
        table = format_table(summary)
        settings = {"models": list(self.models), "num_examples": self.num_examples, "batch_size": self.batch_size}
        write_json(self.output / "results.json", {"settings": settings, "summary": summary, "rows": rows})
        (self.output / "table.md").write_text(table + "\n")
        return table

    def _keys(self, model: str) -> list[str]:
        return [
            json.dumps([model, decoder, options]) for decoder, several in self.settings.items() for options in several
        ]

    def _rows(self) -> dict[str, dict[str, float]]:
        path = self.output / "rows.json"
        if not path.is_file():
            self.output.mkdir(parents=True, exist_ok=True)
            return {}
        content = json.loads(path.read_text())
        if content["num_examples"] != self.num_examples:
            raise UserError(
                f"num_examples: expected {content['num_examples']}, as in the results in {self.output}, "
                f"got {self.num_examples}"
            )
        wanted = {key for model in self.models for key in self._keys(model)}
        return {key: row for key, row in content["rows"].items() if key in wanted}

    def _write(self, rows: dict[str, dict[str, float]]) -> None:
        write_json(self.output / "rows.json", {"num_examples": self.num_examples, "rows": rows})

    def _measure(self, module: DMaxModule, decoder: str, options: dict[str, Any]) -> dict[str, float]:
        from dmaxlit.decoding import Trace
        from dmaxlit.evaluation import evaluate
        from dmaxlit.metrics import DecodingOrder, FinalizationParallelism

        task = module.task()
        if task is None:
            raise UserError("models: expected models that know the task they were trained on, got one that does not")
        examples = task.examples("test", self.num_examples)
        timed = evaluate(module, examples, decoder, options, task.max_new_tokens, self.batch_size)
        trace = Trace()  # in a run of its own: tracing waits for the device
        prompts = [example.prompt for example in examples]
        module.generate(prompts, decoder, task.max_new_tokens, self.batch_size, trace=trace, **options)
        afp, tau, within = FinalizationParallelism(), DecodingOrder(), DecodingOrder(within_block=True)
        for row in trace.rows.values():
            finalized, block = row.finalized(), row.block_of()
            afp.update(finalized)
            tau.update(finalized, block)
            within.update(finalized, block)
        return {
            "accuracy": timed.accuracy,
            "tpf": timed.tpf,
            "afp": float(afp.compute()),
            "tau": float(tau.compute()),
            "tau_within": float(within.compute()),
            "tokens_per_second": timed.tokens_per_second,
            "capped": timed.capped_blocks / max(timed.blocks, 1),
        }

    def _summary(self, rows: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
        labels = list(dict.fromkeys(model.partition("=")[0] for model in self.models))
        best = {
            label: max(100 * self._figure(rows, label, key, "accuracy")[0] for key in self._kinds()) for label in labels
        }
        return [
            {
                "label": label,
                "decoder": decoder,
                "options": options,
                "models": sum(model.partition("=")[0] == label for model in self.models),
                "aup": self._aup(rows, label, decoder, best[label]),
                **{name: self._figure(rows, label, (decoder, json.dumps(options)), name) for name in _FIGURES},
            }
            for label in labels
            for decoder, several in self.settings.items()
            for options in several
        ]

    def _kinds(self) -> list[tuple[str, str]]:
        return [(decoder, json.dumps(options)) for decoder, several in self.settings.items() for options in several]

    def _figure(
        self, rows: dict[str, dict[str, float]], label: str, kind: tuple[str, str], name: str
    ) -> tuple[float, float]:
        """Mean and standard deviation over the models of a label."""
        keys = [json.dumps([m, kind[0], json.loads(kind[1])]) for m in self.models if m.partition("=")[0] == label]
        values = [rows[key][name] for key in keys]
        known = [value for value in values if not math.isnan(value)]  # an order may be undefined
        return fmean(known) if known else math.nan, stdev(known) if len(known) > 1 else 0.0

    def _aup(self, rows: dict[str, dict[str, float]], label: str, decoder: str, y_max: float) -> float:
        """AUP over a decoder's settings, ``y_max`` the best accuracy of any row of the label."""
        from dmaxlit.metrics import accuracy_under_parallelism

        kinds = [(decoder, json.dumps(options)) for options in self.settings[decoder]]
        points = [
            (self._figure(rows, label, kind, "tpf")[0], 100 * self._figure(rows, label, kind, "accuracy")[0])
            for kind in kinds
        ]
        return accuracy_under_parallelism(points, y_max or None)


def format_table(summary: Sequence[dict[str, Any]]) -> str:
    """A markdown table; AUP stands in the first row of each decoder."""
    lines = [
        "| model | decoder | accuracy % | TPF | AUP | AFP | tau | tau in block | tokens/s | capped |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    before = None
    for entry in summary:
        options = ", ".join(f"{name} {value}" for name, value in entry["options"].items())
        first = (entry["label"], entry["decoder"]) != before
        before = (entry["label"], entry["decoder"])
        several = entry["models"] > 1

        def told(name: str, scale: float, digits: int, entry: Any = entry, several: bool = several) -> str:
            mean, deviation = entry[name]
            text = f"{scale * mean:.{digits}f}"
            return f"{text} ± {scale * deviation:.{digits}f}" if several else text

        lines.append(
            f"| {entry['label']} | {entry['decoder']}{' ' + options if options else ''} | {told('accuracy', 100, 1)} "
            f"| {told('tpf', 1, 2)} | {format(entry['aup'], '.0f') if first else ''} | {told('afp', 1, 2)} "
            f"| {entry['tau'][0]:.2f} | {entry['tau_within'][0]:.2f} | {entry['tokens_per_second'][0]:.0f} "
            f"| {100 * entry['capped'][0]:.1f}% |"
        )
    return "\n".join(lines)
