"""How far beyond DMax do several blocks at once and further training go? Every combination beside the faithful DMax."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmaxlit.bench.command import RECIPE_FOLDER, check_recipes, recipe_hashes
from dmaxlit.bench.frontier_models import BASE_RECIPE, FrontierModels, file_stem
from dmaxlit.bench.frontier_settings import FRONTIER_METHODS, REFERENCE, SETTINGS, STUDIES, FrontierStudy
from dmaxlit.bench.output_folder import holds_output, record_settings, write_results
from dmaxlit.bench.paired_rows import Contestant, kept_rows, measure_pair
from dmaxlit.bench.paired_table import format_pairs, format_training, summarize_pairs
from dmaxlit.bench.shipped_base import shipped_base_settings
from dmaxlit.errors import UserError, check_at_least, check_choice, check_distinct
from dmaxlit.evaluation.evaluate import DecoderSpec
from dmaxlit.loading import load
from dmaxlit.module import DMaxModule
from dmaxlit.tasks import Example
from dmaxlit.tasks.base import requested_examples

__all__ = ["FrontierBench"]


@dataclass(frozen=True)
class FrontierBench:
    """Compare windows of blocks and further training with the faithful DMax: OPUT decoded with SPD.

    Rows are compared with it on the same prompts, in accuracy, TPF and tokens per second, which take turns. Models and
    rows are kept under the output folder: run it again after an interruption and it resumes.

    Args:
        output: Folder for models, and in it for each setting and study results.json and table.md.
        setting: standard: answers of two or three blocks, from the shipped base; or long: of six short blocks, from a
            base that the benchmark makes of the shipped one.
        study: methods: every way of training with every way of decoding, but for the base, which cannot revise; or
            window: what a window gains and loses by its size, its gate and the decoder's thresholds.
        configs: Folder of the recipes: pretrain.yaml, quickstart.yaml and its siblings.
        seeds: Training seeds.
        methods: Some of the study's, on_policy among them. Default: all.
        num_prompts: Prompts that the base writes the corpus from.
        steps: Training steps of on-policy training; of the other methods a share of them.
        num_examples: Test prompts decoded for each row.
        num_timed: How many of them are decoded to measure the speed, one at a time and, from 16 on, sixteen.
        repeats: Turns of row and reference in which the speed is measured.
    """

    output: Path = Path("runs/frontier")
    setting: str = "standard"
    study: str = "methods"
    configs: Path = RECIPE_FOLDER
    seeds: Sequence[int] = (0, 1, 2)
    methods: Sequence[str] | None = None
    num_prompts: int = 2048
    steps: int = 400
    num_examples: int = 1000
    num_timed: int = 32
    repeats: int = 3

    def __post_init__(self) -> None:
        """Check the settings before anything is started."""
        check_choice("setting", self.setting, tuple(SETTINGS))
        check_choice("study", self.study, tuple(STUDIES))
        check_at_least(1, **self._shared())
        if self.num_timed > self.num_examples:
            raise UserError(
                f"num_timed: expected at most the {self.num_examples} of num_examples, got {self.num_timed}"
            )
        check_distinct(seeds=self.seeds)
        if self.methods is not None:
            known = self._study.methods
            if REFERENCE[0] not in self.methods or not set(self.methods) <= set(known):
                got = ", ".join(self.methods) or "none"
                raise UserError(f"methods: expected {REFERENCE[0]}, and others of {', '.join(known)}; got {got}")
        check_recipes(self.configs, self._recipes)

    @holds_output
    def run(self) -> str:
        """Train and decode what is missing, write ``results.json`` and ``table.md``, and return the tables.

        Raises:
            UserError: If ``output`` holds results of other settings, or training fails.
        """
        shared = {**self._shared(), **shipped_base_settings()}
        record_settings(self._folder, shared, recipe_hashes(self.configs, self._recipes))
        jobs, study = self._jobs(), self._study
        results: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        with tqdm(total=sum(len(study.decoders_of(method)) for method, _ in jobs), unit="row") as bar:
            for method, seed in jobs:
                for title, figures in self._rows(method, seed, bar).items():
                    results.setdefault((method, title), {})[seed] = figures
        rows = [(method, spec) for method in study.methods for spec in study.decoders_of(method)]
        summary = summarize_pairs(results, rows, results[REFERENCE[0], REFERENCE[1].title])
        trained = [(method, seed) for method, seed in jobs if method != "base"]
        training = [
            {"method": method, "seed": seed, "cpu_seconds": self._models.cpu_seconds(method, seed)}
            for method, seed in trained
        ]
        table = "\n\n".join(filter(None, (format_pairs(summary, "DMax"), format_training(training))))
        settings = {"setting": self.setting, "seeds": list(self.seeds), **self._shared()}
        folder = self._folder / self.study
        folder.mkdir(exist_ok=True)
        write_results(folder, {"settings": settings, "summary": summary, "training": training}, table, self._folder)
        return table

    @property
    def _folder(self) -> Path:
        return self.output / self.setting

    @property
    def _recipes(self) -> tuple[str, ...]:
        return (BASE_RECIPE, *(method.recipe for method in FRONTIER_METHODS.values()))

    @property
    def _study(self) -> FrontierStudy:
        return STUDIES[self.study]

    @property
    def _models(self) -> FrontierModels:
        return FrontierModels(self._folder, SETTINGS[self.setting], self.configs, self.num_prompts, self.steps)

    def _shared(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("num_prompts", "steps", "num_examples", "num_timed", "repeats")}

    def _jobs(self) -> list[tuple[str, int]]:
        """Return method and seed of each model. The base has no seed: it is decoded beside the first one."""
        chosen = [name for name in self._study.methods if self.methods is None or name in self.methods]
        chosen.sort(key=lambda name: name != REFERENCE[0])  # first what the others are compared with
        return [(name, seed) for seed in self.seeds for name in chosen if name != "base" or seed == self.seeds[0]]

    def _rows(self, method: str, seed: int, bar: "tqdm[Any]") -> dict[str, dict[str, Any]]:
        """Return the figures of a model by the title of the decoder; those that are missing are measured."""
        path = self._folder / "runs" / f"{file_stem(method, seed)}.json"
        path.parent.mkdir(exist_ok=True)

        @cache
        def start() -> tuple[DMaxModule, Contestant, list[Example]]:
            module, reference = load(self._models.model(method, seed)), load(self._models.model(REFERENCE[0], seed))
            task = module.task()
            assert task is not None, "all models were trained on a task"
            examples = requested_examples(task, "test", self.num_examples, "num_examples")
            return module, Contestant(reference, REFERENCE[1]), examples

        def measure(spec: DecoderSpec) -> dict[str, Any]:
            module, reference, examples = start()
            return measure_pair(Contestant(module, spec), reference, examples, self.num_timed, self.repeats)

        return kept_rows(path, self._study.decoders_of(method), measure, bar.update)
