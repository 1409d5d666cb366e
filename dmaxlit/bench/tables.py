"""What do the tables of the DMax paper look like on word problems and small programs? Every method and seed in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dmaxlit.bench.command import RECIPE_FOLDER, check_recipes, recipe_hashes, recipe_value
from dmaxlit.bench.jobs import Job, run_jobs
from dmaxlit.bench.output_folder import holds_output, record_settings, write_results
from dmaxlit.bench.paired_rows import Contestant, kept_rows, measure_pair, stored_rows
from dmaxlit.bench.paired_table import Results, Runs, format_pairs, format_training, per_seed, summarize_pairs
from dmaxlit.bench.paper_tables import BASE, TABLE_METHODS, TABLES, WORDINGS, PaperTable
from dmaxlit.bench.tables_models import TablesModels
from dmaxlit.bench.tables_picture import save_curves
from dmaxlit.data.encoding import encode_prompts
from dmaxlit.errors import UserError, check_at_least, check_choice, check_distinct, check_not_empty
from dmaxlit.evaluation.evaluate import DecoderSpec
from dmaxlit.files import read_json
from dmaxlit.loading import usable_device
from dmaxlit.metrics import answer_blocks
from dmaxlit.module import DMaxModule
from dmaxlit.tasks import Example
from dmaxlit.tasks.base import requested_examples

__all__ = ["TablesBench"]

_SHARED_SETTINGS = ("task_options", "num_prompts", "num_examples", "num_timed", "repeats", "device")
_CORPUS = "corpus"  # the job that writes one
_WITHOUT = ("published", "without EOS", "extra blocks")  # columns for windows of blocks, and for other conventions


@dataclass
class TablesBench:
    """Take the tables of the DMax paper on word problems or small programs, on several seeds and with controls.

    All tables share the trained models, and rows that are in several of them are decoded once. Accuracy and TPF of a
    row are compared with those of a reference on the same prompts; tokens per second with those of the base, in turns:
    on a CPU of the process's own time on one thread, on another device by the clock, which other workers on it disturb.
    Models and rows are kept under the output folder: run it again after an interruption and it resumes.

    Args:
        output: Folder in which a task has its own, for models and corpora, and in a folder for each table results.json
            and table.md, of curves also pictures.
        task: stories, whose prompts are decoded with the question last and first; or programs.
        bases: Models that were trained on the task: folders, hub ids or builtin:NAME. Seed s starts from base
            s % (number of bases). Default: that of the task's recipe.
        tables: Some of methods, low_parallelism, ablation and stopping (Tables 1 to 4 of the paper), curves (the
            trade-off of accuracy and TPF) and training (other ways of training at equal compute).
        configs: Folder of the recipes: that of the task, control.yaml, uniform.yaml and their siblings.
        seeds: Training seeds.
        task_options: Options of the task beside those of its recipe, for the corpus and the test prompts.
        num_prompts: Prompts that a base writes its corpus from. Default: as many as in the task's recipe.
        steps: Training steps of on-policy training; of the other methods as many as cost the same. Default: those of
            the task's recipe.
        num_examples: Test prompts decoded for each row.
        num_timed: How many of them are decoded to measure the speed, one at a time and, from 16 on, sixteen; 0: none.
        repeats: Turns of row and base in which the speed is measured.
        workers: Models trained and decoded at the same time.
        threads: CPU threads of each worker; the speed is measured on one.
        device: cpu, cuda, ... or auto, on which models decode; they are trained on an accelerator if there is one.
    """

    output: Path = Path("runs/tables")
    task: str = "stories"
    bases: Sequence[str] | None = None
    tables: Sequence[str] = tuple(TABLES)
    configs: Path = RECIPE_FOLDER
    seeds: Sequence[int] = (0, 1, 2)
    task_options: dict[str, Any] = field(default_factory=dict)
    num_prompts: int | None = None
    steps: int | None = None
    num_examples: int = 512
    num_timed: int = 16
    repeats: int = 3
    workers: int = 2
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings before anything is started."""
        self.output, self.configs = Path(self.output), Path(self.configs)
        check_choice("task", self.task, tuple(WORDINGS))
        check_distinct(tables=self.tables, seeds=self.seeds)
        if self.bases is not None:
            check_not_empty(bases=self.bases)
        for name in self.tables:
            check_choice("tables", name, tuple(TABLES))
        counts = ("num_examples", "repeats", "workers", "threads")
        check_at_least(1, num_prompts=self.num_prompts, **{name: getattr(self, name) for name in counts})
        check_at_least(0, num_timed=self.num_timed)
        self.device = usable_device(self.device)
        if self.steps is not None:
            check_at_least(1, steps=self.steps)
        if self.num_timed > self.num_examples:
            raise UserError(
                f"num_timed: expected at most the {self.num_examples} of num_examples, got {self.num_timed}"
            )
        check_recipes(self.configs, self._recipes)
        self._models.make_task()

    @holds_output
    def run(self) -> str:
        """Train and decode what is missing, write the results of each table, and return the tables.

        Raises:
            UserError: If ``output`` holds results of other settings, a base was not trained on the task, the task needs
                a sandbox and there is none, or a job fails.
        """
        models = self._models
        shared = {
            **{name: getattr(self, name) for name in _SHARED_SETTINGS},
            "bases": list(models.bases),
            "weights of bases": models.check(self.num_examples),
            "num_prompts": models.num_prompts,
            "steps": models.steps,
        }
        record_settings(self._folder, shared, recipe_hashes(self.configs, self._recipes))
        numbers = sorted({models.base_of(seed) for seed in self.seeds})
        corpora: list[Job] = [(_CORPUS, number) for number in numbers]
        bases: list[Job] = [("base", number) for number in numbers]
        trained: list[Job] = [(method, seed) for seed in self.seeds for method in TABLE_METHODS if self._specs(method)]
        # What is decoded in most ways takes longest, and begins first.
        longest_first = sorted([*bases, *trained], key=lambda job: -len(self._specs(job[0])))
        for jobs, title in ((corpora, "corpora"), (longest_first, "models")):
            run_jobs(self, [job for job in jobs if not self._is_done(*job)], self._folder / "logs", title)
        return "\n\n".join(self._write(name, [*bases, *trained]) for name in self.tables)

    def job(self, method: str, number: int) -> None:
        """Train and decode one model. Each job runs in its own process.

        Args:
            method: ``base`` or a method; or ``corpus``, to write that of a base.
            number: Number of the base, or training seed.
        """
        if method == _CORPUS:
            self._models.corpus(number)
            return
        for wording, options in WORDINGS[self.task].items():
            self._decode(method, number, wording, options)

    @property
    def _folder(self) -> Path:
        return self.output / self.task

    @property
    def _recipes(self) -> tuple[str, ...]:
        return (f"{self.task}.yaml", *(method.recipe for method in TABLE_METHODS.values() if method.recipe is not None))

    @property
    def _models(self) -> TablesModels:
        recipe = self.configs / f"{self.task}.yaml"
        bases = self.bases or (recipe_value(recipe, "model.backbone.pretrained"),)
        num_prompts = self.num_prompts or recipe_value(recipe, "data.distill.num_prompts")
        steps = self.steps or recipe_value(recipe, "trainer.max_steps")
        return TablesModels(
            self._folder, self.task, self.task_options, tuple(bases), self.configs, num_prompts, steps, self.device
        )

    def _specs(self, method: str) -> list[DecoderSpec]:
        """Return how a model is decoded for the chosen tables, each way once."""
        rows = [row for name in self.tables for row in TABLES[name].rows]
        return list({spec.title: spec for model, spec in rows if model == method}.values())

    def _rows_path(self, method: str, number: int, wording: str) -> Path:
        return self._folder / "runs" / f"{_stem(method, str(number), wording)}.json"

    def _is_done(self, method: str, number: int) -> bool:
        if method == _CORPUS:
            return self._models.corpus_path(number).is_file()
        specs, paths = self._specs(method), [self._rows_path(method, number, name) for name in WORDINGS[self.task]]
        return all(len(stored_rows(path, specs)) == len(specs) for path in paths)

    def _decode(self, method: str, number: int, wording: str, options: dict[str, Any]) -> None:
        path, specs, models = self._rows_path(method, number, wording), self._specs(method), self._models
        path.parent.mkdir(parents=True, exist_ok=True)

        @cache
        def start() -> tuple[DMaxModule, Contestant, list[Example]]:
            base = models.load("base", models.base_of(number), options)
            examples = requested_examples(models.make_task(options), "test", self.num_examples, "num_examples")
            # Many decoders give the same answer, which takes a while to check if it is a program.
            examples = [replace(example, checker=cache(example.check)) for example in examples]
            return models.load(method, number, options), Contestant(base, BASE[1]), examples

        def measure(spec: DecoderSpec) -> dict[str, Any]:
            module, base, examples = start()
            figures = measure_pair(Contestant(module, spec), base, examples, self.num_timed, self.repeats)
            return {**figures, "blocks": _blocks(module, examples, figures["tokens"])}

        with tqdm(total=len(specs), unit="row", desc=_stem(method, str(number), wording)) as bar:
            kept_rows(path, specs, measure, bar.update)

    def _write(self, name: str, jobs: Sequence[Job]) -> str:
        """Write the results of a table, and return it."""
        table, folder = TABLES[name], self._folder / name
        folder.mkdir(exist_ok=True)
        summaries, runs, sections = {}, [], []
        for wording in WORDINGS[self.task]:
            results = self._results(table, jobs, wording)
            summary = summarize_pairs(results, table.rows, self._reference(table, results))
            title = ", ".join(filter(None, (f"{self.task}: {name}", wording)))
            if name == "curves":
                save_curves(folder / _stem(name, wording), table.rows, results, summary, title)
            reference = f"{table.reference[0]} / {table.reference[1].title}"
            sections.append(f"### {title}\n\n" + format_pairs(summary, reference, "base", _WITHOUT))
            summaries[wording] = summary
            runs += per_seed(results, wording=wording)
        methods = {method for method, _ in table.rows}
        training = [
            {"method": method, "seed": seed, "cpu_seconds": self._models.cpu_seconds(method, seed)}
            for method, seed in jobs
            if method in methods - {"base"}
        ]
        text = "\n\n".join(filter(None, [*sections, format_training(training)]))
        settings = read_json(self._folder / "settings.json") | {"seeds": list(self.seeds)}
        del settings["software"]  # which all results name
        content = {"settings": settings, "summary": summaries, "runs": runs, "training": training}
        write_results(folder, content, text, self._folder)
        return text

    def _results(self, table: PaperTable, jobs: Sequence[Job], wording: str) -> dict[tuple[str, str], dict[int, Any]]:
        results: dict[tuple[str, str], dict[int, Any]] = {}
        for method, number in jobs:
            specs = [spec for model, spec in table.rows if model == method]
            for title, figures in stored_rows(self._rows_path(method, number, wording), specs).items():
                results.setdefault((method, title), {})[number] = figures
        return results

    def _reference(self, table: PaperTable, results: Results) -> Runs:
        """Return the results of the reference for each seed, and for each base; those of a seed go with its base."""
        method, spec = table.reference
        runs = results[method, spec.title]
        if method == "base":
            return {seed: runs[self._models.base_of(seed)] for seed in self.seeds} | dict(runs)
        return {self._models.base_of(seed): runs[seed] for seed in reversed(self.seeds)} | dict(runs)


def _stem(*parts: str) -> str:
    return "-".join(filter(None, parts)).replace(" ", "_")


def _blocks(module: DMaxModule, examples: Sequence[Example], tokens: Sequence[int]) -> list[int]:
    """Count the blocks of each answer."""
    prompts = [len(ids) for ids in encode_prompts(module.tokenizer, [example.prompt for example in examples])]
    blocks = answer_blocks(torch.tensor(prompts), torch.tensor(tokens), module.backbone.block_length)
    return [int(count) for count in blocks]
