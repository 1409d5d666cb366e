"""Does on-policy training make a model that corrects itself? Several methods, seeds and decoders in one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dmaxlit.bench.command import RECIPE_FOLDER, check_recipes, recipe_hashes
from dmaxlit.bench.corpus import distilled_corpus
from dmaxlit.bench.jobs import Job, run_jobs
from dmaxlit.bench.output_folder import holds_output, record_settings, runs_folder, write_results
from dmaxlit.bench.shipped_base import SHIPPED_BASE, shipped_base_settings
from dmaxlit.bench.studies import PRETRAIN, STUDIES, Method
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.bench.table_rows import TableRow, has_decoded_rows, kept_decoded_rows
from dmaxlit.bench.trained_model import trained_model
from dmaxlit.errors import UserError, check_at_least, check_distinct

__all__ = ["SelfCorrectionBench"]

# The results of all studies in one output folder depend on these; seeds may be added later.
_SHARED_SETTINGS = ("num_bases", "num_prompts", "num_examples")


@dataclass
class SelfCorrectionBench:
    """Train control, uniform and on-policy models on several seeds, decode them all, and print the table.

    Models and results are kept under the output folder: run it again after an interruption and it resumes. The defaults
    take about two hours on two CPU cores, half an hour of it for the second base.

    Args:
        output: Folder for models and corpora, and in a folder for each study results.json and table.md.
        study: methods; without_revision: what rules that never revise reach at the speed of those that do; dependence:
            variants of on-policy training, to see what the effect depends on; strategies: ways of showing a model its
            own errors; truth: the same with and without clean tokens among its guesses; or trajectories: learning from
            later states of the base's own decoding.
        configs: Folder of the recipes: pretrain_curriculum.yaml, quickstart.yaml and its siblings.
        num_bases: Base models. The first is the shipped one; the others are pretrained with their number as seed.
        seeds: Training seeds; seed s starts from base s % num_bases.
        num_prompts: Prompts a base distils its corpus from.
        num_examples: Test prompts decoded for each row.
        workers: Models trained and decoded at the same time.
        threads: CPU threads of each worker.
    """

    output: Path = Path("runs/self_correction")
    study: str = "methods"
    configs: Path = RECIPE_FOLDER
    num_bases: int = 2
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    num_prompts: int = 2048
    num_examples: int = 1000
    workers: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the settings before anything is started."""
        self.output, self.configs = Path(self.output), Path(self.configs)
        check_at_least(1, num_bases=self.num_bases, num_prompts=self.num_prompts, num_examples=self.num_examples)
        check_at_least(1, workers=self.workers, threads=self.threads)
        check_distinct(seeds=self.seeds)
        if self.study not in STUDIES:
            raise UserError(f"study: expected one of {', '.join(STUDIES)}, got {self.study!r}")
        check_recipes(self.configs, self._recipes)

    @holds_output
    def run(self) -> str:
        """Train and decode what is missing, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If ``output`` holds results of other settings, or a job fails.
        """
        shared = {**{name: getattr(self, name) for name in _SHARED_SETTINGS}, **shipped_base_settings()}
        record_settings(self.output, shared, recipe_hashes(self.configs, self._recipes))
        bases = [("base", base) for base in range(self.num_bases)]
        trained = [(method, seed) for seed in self.seeds for method in self._methods]
        self._do(bases, "bases")
        self._do(trained, "models")
        runs = [self._results(*job) for job in (*bases, *trained)]
        summary = summarize((result for run in runs for result in run), STUDIES[self.study].rows)
        table = format_summary(summary)
        settings = {name: value for name, value in vars(self).items() if name not in ("output", "configs")}
        write_results(self._folder, {"settings": settings, "summary": summary, "runs": runs}, table, self.output)
        return table

    @property
    def _folder(self) -> Path:
        return self.output / self.study

    @property
    def _recipes(self) -> tuple[str, ...]:
        return (PRETRAIN, *(method.recipe for method in self._methods.values()))

    @property
    def _methods(self) -> dict[str, Method]:
        return STUDIES[self.study].methods

    def job(self, method: str, number: int) -> None:
        """Train and decode one model. Each job runs in its own process.

        Args:
            method: ``base`` or a method of the study.
            number: Number of the base, or training seed.
        """
        self._results(method, number)

    def _do(self, jobs: Sequence[Job], title: str) -> None:
        missing = [job for job in jobs if not has_decoded_rows(self._path(*job), self._rows(job[0]))]
        run_jobs(self, missing, self._folder / "logs", title)

    def _results(self, method: str, number: int) -> list[dict[str, Any]]:
        """Return the results of a model; those that are missing are decoded, after training if need be."""
        model = partial(self._model, method, number)
        return kept_decoded_rows(self._path(method, number), self._rows(method), model, number, self.num_examples)

    def _model(self, method: str, number: int) -> str:
        """Return a trained model, or a base, which writes its corpus."""
        if method != "base":
            return self._train(method, number)
        model = self._base(number)
        self._corpus(number, model)
        return model

    def _rows(self, method: str) -> list[TableRow]:
        return [row for row in STUDIES[self.study].rows if row.method == method]

    def _base(self, number: int) -> str:
        if number == 0:
            return SHIPPED_BASE
        return self._fit(PRETRAIN, self.output / f"base-{number}", number)

    def _corpus(self, base: int, model: str) -> Path:
        return distilled_corpus(model, self.output / f"corpus-{base}.jsonl", self.num_prompts)

    def _train(self, method: str, seed: int) -> str:
        base = seed % self.num_bases
        model = self._base(base)
        start = (f"--model.backbone.pretrained={model}", f"--data.corpus={self._corpus(base, model)}")
        trained = self._methods[method]
        return self._fit(trained.recipe, self._folder / f"{method}-{seed}", seed, *start, *trained.overrides)

    def _fit(self, recipe: str, folder: Path, seed: int, *options: str) -> str:
        return trained_model(folder, self.configs / recipe, seed, "--data.distill=null", *options)

    def _path(self, method: str, number: int) -> Path:
        return runs_folder(self._folder) / f"{method}-{number}.json"
