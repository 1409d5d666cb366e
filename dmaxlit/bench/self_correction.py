"""The benchmark behind the README's table: does on-policy training make a model that corrects itself?"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmaxlit.bench.files import write_results
from dmaxlit.bench.rows import PRETRAIN, STUDIES, Method
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.data.distill import DistillSettings, distill
from dmaxlit.errors import UserError
from dmaxlit.files import write_json

__all__ = ["SelfCorrectionBench"]


@dataclass
class SelfCorrectionBench:
    """Train the models of a study on several seeds, decode them all, and tabulate.

    Everything is kept under ``output`` and nothing is done twice: run it again after an interruption and it goes on.

    Args:
        output: Folder for models and corpora, and for each study a folder with ``runs/*.json``, ``results.json`` and
            ``table.md``.
        study: A key of :data:`dmaxlit.bench.rows.STUDIES`.
        configs: Folder of the recipes (``quickstart.yaml`` and its siblings).
        num_bases: Base models. The first is the shipped one; the others are pretrained with their number as seed.
        seeds: Training seeds; seed s starts from base ``s % num_bases``.
        num_prompts: Prompts a base distils its corpus from.
        num_examples: Unseen test prompts each row is judged on.
        workers: Models trained and decoded at the same time, each on ``threads`` threads.
        threads: CPU threads of each worker.
    """

    output: Path = Path("runs/self_correction")
    study: str = "methods"
    configs: Path = Path("configs")
    num_bases: int = 2
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    num_prompts: int = 2048
    num_examples: int = 1000
    workers: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the settings before anything is started."""
        self.output, self.configs = Path(self.output), Path(self.configs)
        for name in ("num_bases", "num_prompts", "num_examples", "workers", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.seeds:
            raise UserError("seeds: expected at least one, got none")
        if self.study not in STUDIES:
            raise UserError(f"study: expected one of {', '.join(STUDIES)}, got {self.study!r}")
        for recipe in (PRETRAIN, *(method.recipe for method in self._methods.values())):
            if not (self.configs / recipe).is_file():
                raise UserError(f"configs: expected a folder with {recipe}, got {str(self.configs)!r}")

    def run(self) -> str:
        """Do what is missing, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If ``output`` holds results made with other settings, or a job fails.
        """
        self._claim()
        jobs: list[Sequence[str]] = [("base", str(base)) for base in range(self.num_bases)]
        self._parallel(jobs, "bases")
        self._parallel([(method, str(seed)) for seed in self.seeds for method in self._methods], "models")
        runs = [json.loads(path.read_text()) for path in sorted((self._folder / "runs").glob("*.json"))]
        summary = summarize((result for run in runs for result in run), STUDIES[self.study].rows)
        table = format_summary(summary)
        settings = {name: value for name, value in vars(self).items() if name not in ("output", "configs")}
        write_results(self._folder, {"settings": settings, "summary": summary, "runs": runs}, table)
        return table

    @property
    def _folder(self) -> Path:
        return self.output / self.study

    @property
    def _methods(self) -> dict[str, Method]:
        return STUDIES[self.study].methods

    def _claim(self) -> None:
        """Note what results in ``output`` depend on, so that others are not mixed in; seeds may be added."""
        path = self.output / "settings.json"
        mine = {name: getattr(self, name) for name in ("num_bases", "num_prompts", "num_examples")}
        theirs = json.loads(path.read_text()) if path.is_file() else mine
        for name, value in mine.items():
            if theirs.get(name) != value:
                raise UserError(f"{name}: expected {theirs.get(name)}, as in the results in {self.output}, got {value}")
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)

    def job(self, method: str, number: int) -> None:
        """Make and decode one model; run in a process of its own.

        Args:
            method: ``base`` or a method of the study.
            number: Which base, or which training seed.
        """
        done = self._result(method, number)
        if done.is_file():
            return
        if method == "base":
            model = self._base(number)
            self._corpus(number, model)
        else:
            model = self._train(method, number)
        write_json(done, self._decode(method, number, model))

    def _base(self, number: int) -> str:
        if number == 0:
            return "builtin:chain-base"
        folder = self.output / f"base-{number}"
        if not (folder / "model").is_dir():
            self._fit(PRETRAIN, folder, number, [])
        return str(folder / "model")

    def _corpus(self, base: int, model: str) -> Path:
        path = self.output / f"corpus-{base}.jsonl"
        if not path.is_file():
            from dmaxlit.loading import load

            module = load(model)
            task = module.task()
            assert task is not None, "the base was trained on a task"
            distill(module, task, path, DistillSettings(num_prompts=self.num_prompts))
        return path

    def _train(self, method: str, seed: int) -> str:
        base = seed % self.num_bases
        folder = self._folder / f"{method}-{seed}"
        if not (folder / "model").is_dir():
            model = self._base(base)
            overrides = [f"--model.backbone.pretrained={model}", f"--data.corpus={self._corpus(base, model)}"]
            how = self._methods[method]
            self._fit(how.recipe, folder, seed, [*overrides, *how.overrides])
        return str(folder / "model")

    def _fit(self, recipe: str, folder: Path, seed: int, overrides: Sequence[str]) -> None:
        """``dmaxlit fit`` with a recipe, without its callbacks, then export the last checkpoint."""
        from dmaxlit.checkpoints.lightning_file import checkpoint_to_folder
        from dmaxlit.cli import main

        fixed = [
            f"--seed_everything={seed}",
            f"--trainer.default_root_dir={folder}",
            "--data.distill=null",
            "--trainer.callbacks=null",
            "--trainer.logger=false",
            "--trainer.limit_val_batches=0",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
        main(["fit", f"--config={self.configs / recipe}", *overrides, *fixed])
        checkpoint_to_folder(folder / "checkpoints" / "last.ckpt", folder / "model")

    def _decode(self, method: str, number: int, model: str) -> list[dict[str, Any]]:
        from dmaxlit.evaluation.evaluate import evaluate
        from dmaxlit.loading import load

        module = load(model)
        task = module.task()
        assert task is not None, "the model was trained on a task"
        examples = task.examples("test", self.num_examples)
        results = []
        for row in STUDIES[self.study].rows:
            if row.method == method:
                result = evaluate(module, examples, row.decoder, row.options, max_new_tokens=task.max_new_tokens)
                results.append({"row": row.key, "number": number, **result.to_dict()})
        return results

    def _parallel(self, jobs: Sequence[Sequence[str]], title: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        (self._folder / "logs").mkdir(parents=True, exist_ok=True)
        (self._folder / "runs").mkdir(exist_ok=True)

        def start(job: Sequence[str]) -> None:
            log = self._folder / "logs" / f"{'-'.join(job)}.log"
            settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
            command = [sys.executable, "-m", "dmaxlit.bench", json.dumps(settings), *job]
            with log.open("a") as stream:
                code = subprocess.run(command, env=environment, stdout=stream, stderr=stream, check=False).returncode
            if code != 0:
                raise UserError(f"bench: {' '.join(job)} failed with exit status {code}; see {log}")

        missing = [job for job in jobs if not self._result(*job).is_file()]
        with ThreadPoolExecutor(self.workers) as pool:
            list(tqdm(pool.map(start, missing), total=len(jobs), initial=len(jobs) - len(missing), desc=title))

    def _result(self, method: str, number: str | int) -> Path:
        return self._folder / "runs" / f"{method}-{number}.json"
