"""Does the size of the vocabulary decide which noise teaches correction? The shipped base, with more and more ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dmaxlit.bench.command import RECIPE_FOLDER, check_recipes, recipe_hashes, step_options
from dmaxlit.bench.corpus import distilled_corpus
from dmaxlit.bench.output_folder import holds_output, record_settings, runs_folder, write_results
from dmaxlit.bench.shipped_base import SHIPPED_BASE, shipped_base_settings
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.bench.table_rows import TableRow, kept_decoded_rows
from dmaxlit.bench.trained_model import trained_model
from dmaxlit.errors import UserError, check_at_least, check_distinct
from dmaxlit.loading import load

__all__ = ["RECIPES", "VocabularyBench", "grow_vocabulary"]

#: Recipe of each method.
RECIPES = {"control": "control.yaml", "uniform": "uniform.yaml", "on_policy": "quickstart.yaml"}
# Steps of two passes (clean and masked) are half as many again as those of three, so that all methods cost the same.
_SHARES = {"control": 1.5}
_DECODERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("threshold 0.95", "threshold", {"threshold": 0.95}),
    ("uniform", "uniform", {}),
    ("SPD 0.5", "spd", {"tau_dec": 0.5}),
    ("SPD 0", "spd", {"tau_dec": 0.0}),
    ("hard tokens 0.5", "spd", {"tau_dec": 0.5, "soft": False}),
    ("hard tokens 0", "spd", {"tau_dec": 0.0, "soft": False}),
)


@dataclass(frozen=True)
class VocabularyBench:
    """Train the shipped base with more and more token ids that nothing uses, on uniform and on-policy noise.

    Random tokens of a large vocabulary look less like a model's own errors than those of a small one. All models learn
    from the same corpus, which the base writes, at the same compute. Models and results are kept under the output
    folder: run it again after an interruption and it resumes. The defaults take about three hours on one CPU core.

    Args:
        output: Folder for models, results.json and table.md.
        configs: Folder of the recipes: control.yaml, uniform.yaml and quickstart.yaml.
        sizes: Numbers of token ids, the 38 of the base included.
        seeds: Training seeds.
        num_prompts: Prompts that the base writes the corpus from.
        steps: Training steps of each model; half as many again for control, whose steps have two passes for three.
        num_examples: Test prompts decoded by each model.
        methods: Some of control, uniform and on_policy.
    """

    output: Path = Path("runs/vocabulary")
    configs: Path = RECIPE_FOLDER
    sizes: Sequence[int] = (38, 128, 512, 2000)
    seeds: Sequence[int] = (0, 1, 2)
    num_prompts: int = 2048
    steps: int = 400
    num_examples: int = 256
    methods: Sequence[str] = tuple(RECIPES)

    def __post_init__(self) -> None:
        """Check the settings before anything is started."""
        unknown = [name for name in self.methods if name not in RECIPES]
        if unknown:
            raise UserError(f"methods: expected some of {', '.join(RECIPES)}, got {unknown[0]!r}")
        check_distinct(sizes=self.sizes, seeds=self.seeds, methods=self.methods)
        check_at_least(1, **self._settings())
        check_recipes(self.configs, RECIPES.values())

    @holds_output
    def run(self) -> str:
        """Train and decode what is missing, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If ``output`` holds results of other settings, a size is smaller than the base's, or training
                fails.
        """
        settings = {**self._settings(), **shipped_base_settings()}
        record_settings(self.output, settings, recipe_hashes(self.configs, RECIPES.values()))
        for size in self.sizes:
            grow_vocabulary(SHIPPED_BASE, size, self.output / f"base-{size}")
        models = [(method, size, seed) for seed in self.seeds for size in self.sizes for method in self.methods]
        runs = [self._decoded(*model) for model in models]
        rows = [row for size in self.sizes for method in self.methods for row in _rows(method, size)]
        summary = summarize((result for run in runs for result in run), rows)
        table = format_summary(summary)
        write_results(self.output, {"settings": self._settings(), "summary": summary, "runs": runs}, table)
        return table

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("num_prompts", "steps", "num_examples")}

    def _decoded(self, method: str, size: int, seed: int) -> list[dict[str, Any]]:
        path = runs_folder(self.output) / f"{method}-{size}-{seed}.json"
        model = partial(self._trained, method, size, seed)
        return kept_decoded_rows(path, _rows(method, size), model, seed, self.num_examples)

    def _trained(self, method: str, size: int, seed: int) -> str:
        corpus = distilled_corpus(SHIPPED_BASE, self.output / "corpus.jsonl", self.num_prompts)
        return trained_model(
            self.output / f"{method}-{size}-{seed}",
            self.configs / RECIPES[method],
            seed,
            f"--model.backbone.pretrained={self.output / f'base-{size}'}",
            f"--data.corpus={corpus}",
            "--data.distill=null",
            *step_options(round(_SHARES.get(method, 1.0) * self.steps)),
        )


def grow_vocabulary(source: str, size: int, folder: Path) -> None:
    """Write a model with more token ids than another one; nothing uses those that are added.

    Their embeddings are random like those of a fresh model, much shorter than trained ones, so that the model hardly
    ever predicts them.

    Args:
        source: The model: a folder, hub id or ``builtin:NAME``.
        size: Number of token ids, at least the model's.
        folder: Folder to write; one that exists is left as it is.

    Raises:
        UserError: If the model has more ids than ``size``.
    """
    if folder.is_dir():
        return
    module = load(source)
    table = module.backbone.embedding.detach()
    if size < len(table):
        raise UserError(f"sizes: expected at least the {len(table)} token ids of {source}, got {size}")
    added = torch.randn(size - len(table), table.shape[1], generator=torch.Generator().manual_seed(size))
    module.tokenizer.add_tokens([f"<unused{index}>" for index in range(len(table), size)])
    module.backbone.model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        module.backbone.embedding[len(table) :] = added * module.backbone.model.config.initializer_range
    module.export(folder)


def _rows(method: str, size: int) -> list[TableRow]:
    return [TableRow(f"{size} ids, {method}", label, name, options) for label, name, options in _DECODERS]
