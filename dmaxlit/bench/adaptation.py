"""Does warming up the block length pay? An autoregressive model, adapted with it and without on the same budget."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmaxlit.bench.files import write_results
from dmaxlit.bench.rows import Row
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.errors import UserError
from dmaxlit.files import write_json

__all__ = ["METHODS", "AdaptationBench"]

#: How each model is trained: from the autoregressive model or from scratch; shares of the budget at 1, 4, 8, 16 tokens.
METHODS: dict[str, tuple[bool, tuple[float, ...]]] = {
    "warm-up": (True, (0.1, 0.1, 0.1, 0.1)),
    "no warm-up": (True, ()),
    "from scratch": (False, ()),
}
_LENGTHS = (1, 4, 8, 16, 32)
_ROWS_TO_LEARN = 12_800
_DECODERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("one token per forward", "one_token", {}),
    ("threshold 0.95", "threshold", {"threshold": 0.95}),
    ("threshold 0.5", "threshold", {"threshold": 0.5}),
)
_ROWS = tuple(Row(method, label, name, options) for method in METHODS for label, name, options in _DECODERS)


@dataclass(frozen=True)
class AdaptationBench:
    """Trains and decodes what is missing under ``output``, and prints the table.

    Args:
        output: Folder for models and results.
        configs: Folder of the recipes, of which ``pretrain.yaml`` gives sizes and rates.
        seeds: Training seeds; each has an autoregressive model of its own.
        autoregressive_steps: Steps of that model.
        steps: Steps of each adaptation.
        num_examples: Unseen prompts each model is judged on.
        methods: Which of :data:`METHODS`.
    """

    output: Path
    configs: Path
    seeds: tuple[int, ...]
    autoregressive_steps: int
    steps: int
    num_examples: int
    methods: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise UserError(f"methods: expected some of {', '.join(METHODS)}, got {unknown[0]!r}")
        for name in ("autoregressive_steps", "steps", "num_examples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not (self.configs / "pretrain.yaml").is_file():
            raise UserError(f"configs: expected a folder with pretrain.yaml, got {str(self.configs)!r}")

    def run(self) -> str:
        """Do what is missing, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If ``output`` holds results made with other settings.
        """
        self._claim()
        for seed in self.seeds:
            for method in self.methods:
                done = self._result(method, seed)
                if not done.is_file():
                    write_json(done, self._decode(method, seed, self._adapted(method, seed)))
        runs = [json.loads(path.read_text()) for path in sorted(self.output.glob("runs/*.json"))]
        summary = summarize((result for run in runs for result in run), _ROWS)
        table = format_summary(summary)
        write_results(self.output, {"settings": self._settings(), "summary": summary, "runs": runs}, table)
        return table

    def stages(self, method: str) -> dict[int, int] | None:
        """First steps and block lengths of the warm-up, or None."""
        shares = METHODS[method][1]
        starts = [round(sum(shares[:number]) * self.steps) for number in range(len(shares) + 1)]
        return dict(zip(starts, _LENGTHS, strict=True)) if shares else None

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("autoregressive_steps", "steps", "num_examples")}

    def _claim(self) -> None:
        path = self.output / "settings.json"
        theirs = json.loads(path.read_text()) if path.is_file() else self._settings()
        for name, value in self._settings().items():
            if theirs.get(name) != value:
                raise UserError(f"{name}: expected {theirs.get(name)}, as in the results in {self.output}, got {value}")
        (self.output / "runs").mkdir(parents=True, exist_ok=True)
        write_json(path, self._settings())

    def _result(self, method: str, seed: int) -> Path:
        return self.output / "runs" / f"{method.replace(' ', '_')}-{seed}.json"

    def _autoregressive(self, seed: int) -> str:
        folder = self.output / f"autoregressive-{seed}"
        if not (folder / "model").is_dir():
            module = self._fit(folder, seed, self.autoregressive_steps, [], autoregressive=True)
            module.forget_mask()
            module.export(folder / "model")
        return str(folder / "model")

    def _adapted(self, method: str, seed: int) -> str:
        folder = self.output / f"{method.replace(' ', '_')}-{seed}"
        if not (folder / "model").is_dir():
            flags = []
            if METHODS[method][0]:
                flags += [f"--model.backbone.pretrained={self._autoregressive(seed)}", "--model.backbone.config=null"]
            if (stages := self.stages(method)) is not None:
                told = {"class_path": "dmaxlit.callbacks.BlockWarmup", "init_args": {"stages": stages}}
                flags.append(f"--trainer.callbacks={json.dumps([told])}")
            self._fit(folder, seed, self.steps, flags).export(folder / "model")
        return str(folder / "model")

    def _fit(self, folder: Path, seed: int, steps: int, flags: Sequence[str], autoregressive: bool = False) -> Any:
        """``dmaxlit fit`` with the pretraining recipe; returns the trained module."""
        from dmaxlit.bench.autoregressive import AutoregressiveModule
        from dmaxlit.cli.training import run_cli
        from dmaxlit.module import DMaxModule

        fixed = [
            f"--seed_everything={seed}",
            f"--trainer.default_root_dir={folder}",
            f"--trainer.max_steps={steps}",
            f"--model.lr_scheduler.init_args.T_max={steps}",
            f"--data.num_train={_ROWS_TO_LEARN}",
            "--data.task_options.difficulty=easy",
            "--trainer.callbacks=null",
            "--trainer.logger=false",
            "--trainer.limit_val_batches=0",
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
        recipe = self.configs / "pretrain.yaml"
        kind = AutoregressiveModule if autoregressive else DMaxModule
        return run_cli("fit", [f"--config={recipe}", *fixed, *flags], kind)

    def _decode(self, method: str, seed: int, model: str) -> list[dict[str, Any]]:
        from dmaxlit.evaluation.evaluate import evaluate
        from dmaxlit.loading import load

        module = load(model)
        task = module.task()
        assert task is not None, "the recipe names one"
        examples = task.examples("test", self.num_examples)
        results = []
        for row in _ROWS:
            if row.method == method:
                result = evaluate(module, examples, row.decoder, row.options, max_new_tokens=task.max_new_tokens)
                results.append({"row": row.key, "number": seed, **result.to_dict()})
        return results
