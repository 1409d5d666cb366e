"""Does warming up the block length pay? An autoregressive model, adapted with it and without on the same budget."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from dmaxlit.backbone.mask_embedding import init_mask_embedding
from dmaxlit.bench.command import RECIPE_FOLDER, check_recipes, fit, recipe_hashes, step_options
from dmaxlit.bench.output_folder import holds_output, record_settings, runs_folder, write_results
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.bench.table_rows import TableRow, kept_decoded_rows
from dmaxlit.bench.trained_model import trained_model
from dmaxlit.errors import UserError, check_at_least, check_distinct
from dmaxlit.loading import load
from dmaxlit.module import DMaxModule

__all__ = ["ADAPTATIONS", "AdaptationBench"]

#: How each model is trained: whether it starts from the autoregressive model or from scratch; and the shares of
#: ``steps`` that it trains with blocks of 1, 4, 8 and 16 tokens.
ADAPTATIONS: dict[str, tuple[bool, tuple[float, ...]]] = {
    "warm-up": (True, (0.1, 0.1, 0.1, 0.1)),
    "no warm-up": (True, ()),
    "from scratch": (False, ()),
}
_BLOCK_LENGTHS = (1, 4, 8, 16, 32)
_TRAINING_EXAMPLES = 12_800
_DECODERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("one token per forward", "one_token", {}),
    ("threshold 0.95", "threshold", {"threshold": 0.95}),
    ("threshold 0.5", "threshold", {"threshold": 0.5}),
)
_ROWS = tuple(TableRow(method, label, name, options) for method in ADAPTATIONS for label, name, options in _DECODERS)


@dataclass(frozen=True)
class AdaptationBench:
    """Adapt small autoregressive models with and without a warm-up of the block length, and print the table.

    All train on easy prompts of the chain task: both adaptations for as many steps, after those of their autoregressive
    model, and a model from scratch for these steps alone, so that it is no control at equal compute. Models and results
    are kept under the output folder: run it again after an interruption and it resumes.

    Args:
        output: Folder for models, results.json and table.md.
        configs: Folder of the recipes; pretrain.yaml sets model sizes and learning rates.
        seeds: Training seeds; each has its own autoregressive model.
        autoregressive_steps: Training steps of the autoregressive models.
        steps: Training steps of each adaptation, and from scratch.
        num_examples: Test prompts decoded by each model.
        methods: Some of warm-up, no warm-up and from scratch.
    """

    output: Path = Path("runs/adaptation")
    configs: Path = RECIPE_FOLDER
    seeds: Sequence[int] = (0, 1, 2)
    autoregressive_steps: int = 600
    steps: int = 300
    num_examples: int = 500
    methods: Sequence[str] = tuple(ADAPTATIONS)

    def __post_init__(self) -> None:
        """Check the settings before anything is started."""
        unknown = [name for name in self.methods if name not in ADAPTATIONS]
        if unknown:
            raise UserError(f"methods: expected some of {', '.join(ADAPTATIONS)}, got {unknown[0]!r}")
        check_distinct(seeds=self.seeds, methods=self.methods)
        check_at_least(1, **self._settings())
        check_recipes(self.configs, [self._recipe.name])

    @holds_output
    def run(self) -> str:
        """Train and decode what is missing, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If ``output`` holds results of other settings, or training fails.
        """
        record_settings(self.output, self._settings(), recipe_hashes(self.configs, [self._recipe.name]))
        runs = [self._decoded(method, seed) for seed in self.seeds for method in self.methods]
        summary = summarize((result for run in runs for result in run), _ROWS)
        table = format_summary(summary)
        write_results(self.output, {"settings": self._settings(), "summary": summary, "runs": runs}, table)
        return table

    def stages(self, method: str) -> dict[int, int] | None:
        """Return the first step and block length of each stage of the warm-up, or None for a method without one."""
        shares = ADAPTATIONS[method][1]
        starts = [round(sum(shares[:index]) * self.steps) for index in range(len(shares) + 1)]
        return dict(zip(starts, _BLOCK_LENGTHS, strict=True)) if shares else None

    @property
    def _recipe(self) -> Path:
        return self.configs / "pretrain.yaml"

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("autoregressive_steps", "steps", "num_examples")}

    def _autoregressive(self, seed: int) -> str:
        folder = self.output / f"autoregressive-{seed}"
        if not (folder / "model").is_dir():
            callback = {"class_path": "dmaxlit.callbacks.NextTokenTraining"}
            options = self._training(self.autoregressive_steps, _callbacks(callback))
            module = load(fit(self._recipe, folder, seed, *options))
            forget_mask(module)
            module.export(folder / "model")
        return str(folder / "model")

    def _decoded(self, method: str, seed: int) -> list[dict[str, Any]]:
        path = runs_folder(self.output) / f"{_file_stem(method, seed)}.json"
        rows = [row for row in _ROWS if row.method == method]
        return kept_decoded_rows(path, rows, partial(self._adapted, method, seed), seed, self.num_examples)

    def _adapted(self, method: str, seed: int) -> str:
        options = []
        if ADAPTATIONS[method][0]:
            options += [f"--model.backbone.pretrained={self._autoregressive(seed)}", "--model.backbone.config=null"]
        if (stages := self.stages(method)) is not None:
            warm_up = {"class_path": "dmaxlit.callbacks.BlockWarmup", "init_args": {"stages": stages}}
            options.append(_callbacks(warm_up))
        folder = self.output / _file_stem(method, seed)
        return trained_model(folder, self._recipe, seed, *self._training(self.steps, *options))

    def _training(self, steps: int, *options: str) -> tuple[str, ...]:
        """Return the options of the pretraining recipe for a number of steps on easy prompts."""
        examples = f"--data.num_train={_TRAINING_EXAMPLES}"
        return *step_options(steps), examples, "--data.task_options.difficulty=easy", *options


def forget_mask(module: DMaxModule) -> None:
    """Reset the mask token's embedding to what it would be had the tokenizer had no mask token."""
    table = module.backbone.model.get_input_embeddings()
    assert isinstance(table, nn.Embedding), "other tables are refused"
    init_mask_embedding(table, [module.special.mask_id], module.special.vocab_size)


def _file_stem(method: str, seed: int) -> str:
    return f"{method.replace(' ', '_')}-{seed}"


def _callbacks(*callbacks: dict[str, Any]) -> str:
    return f"--trainer.callbacks={json.dumps(callbacks)}"
