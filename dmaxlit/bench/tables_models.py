"""The models of the benchmark of tables: bases, and what is trained from them on the corpora that they write."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dmaxlit.bench.command import recipe_value, step_options
from dmaxlit.bench.corpus import distilled_corpus
from dmaxlit.bench.paper_tables import TABLE_METHODS
from dmaxlit.bench.trained_model import trained_model, training_seconds
from dmaxlit.errors import UserError, renaming_argument
from dmaxlit.files import write_text
from dmaxlit.loading import load
from dmaxlit.module import DMaxModule
from dmaxlit.tasks import Task, task
from dmaxlit.tasks.base import requested_examples
from dmaxlit.weights_hash import weights_hash


@dataclass(frozen=True)
class TablesModels:
    """The models under a folder, each trained when it is first asked for.

    Args:
        folder: Folder of the models and corpora.
        task: Name of the task.
        task_options: Its options beside those of its recipe.
        bases: Folders or names of the bases.
        configs: Folder of the recipes.
        num_prompts: Prompts that a base distils its corpus from.
        steps: Training steps of on-policy training.
        device: Device on which they decode; they are trained on an accelerator if there is one.
    """

    folder: Path
    task: str
    task_options: Mapping[str, Any]
    bases: tuple[str, ...]
    configs: Path
    num_prompts: int
    steps: int
    device: str = "cpu"

    def base_of(self, seed: int) -> int:
        """Return the number of the base that a training seed starts from."""
        return seed % len(self.bases)

    def make_task(self, options: Mapping[str, Any] | None = None) -> Task:
        """Return the task, with further options.

        Raises:
            UserError: If it refuses an option.
        """
        return task(self.task, **self._options(options))

    def check(self, num_examples: int) -> list[str]:
        """Refuse bases that were trained on another task, and a machine on which answers cannot be judged.

        Args:
            num_examples: Test prompts that will be decoded.

        Returns:
            A hash of the weights of each base.

        Raises:
            UserError: For the first such base, or one that cannot be loaded; if there are fewer prompts; or if the task
                needs a sandbox and there is none.
        """
        requested_examples(self.make_task(), "test", num_examples, "num_examples")
        hashes = []
        for base in self.bases:
            with renaming_argument("bases", "pretrained"):
                module = load(base, probe=False)
            name = module.task_name
            if name != self.task:
                raise UserError(f"bases: expected models of the task {self.task!r}, got {base!r}, a model of {name!r}")
            hashes.append(weights_hash(module))
        return hashes

    def corpus(self, base: int) -> Path:
        """Return the corpus of a base."""
        path = self.corpus_path(base)
        return distilled_corpus(self.bases[base], path, self.num_prompts, self.make_task(), self.device)

    def corpus_path(self, base: int) -> Path:
        """Return where the corpus of a base is written."""
        return self.folder / f"corpus-{base}.jsonl"

    def load(self, method: str, number: int, options: Mapping[str, Any]) -> DMaxModule:
        """Load a model.

        Args:
            method: ``base`` or a method.
            number: Number of the base, or training seed.
            options: Further options of its task.

        Raises:
            UserError: If training fails.
        """
        path = self.bases[number] if method == "base" else self._trained(method, number)
        module = load(path, device=self.device)
        module.set_task(self.task, self._options(options))
        return module

    def cpu_seconds(self, method: str, seed: int) -> float | None:
        """Return the CPU time of training a model, or None if it was not trained here but put into the folder."""
        return training_seconds(self._run_folder(method, seed))

    def _trained(self, method: str, seed: int) -> str:
        base = self.base_of(seed)
        return trained_model(
            self._run_folder(method, seed),
            self._recipe(method),
            seed,
            f"--model.backbone.pretrained={self.bases[base]}",
            f"--data.corpus={self.corpus(base)}",
            "--data.distill=null",
            *(f"--data.task_options.{name}={value}" for name, value in self.task_options.items()),
            *step_options(max(1, round(TABLE_METHODS[method].share * self.steps))),
        )

    def _recipe(self, method: str) -> Path:
        """Return the recipe of the task, or one that differs from it by the noise of another recipe."""
        recipe, other = self.configs / f"{self.task}.yaml", TABLE_METHODS[method]
        if other.recipe is None:
            return recipe
        noise = recipe_value(self.configs / other.recipe, "model.noise")
        if other.same_level:
            level = recipe_value(recipe, "model.noise.init_args.level")
            noise = {**noise, "init_args": {**noise["init_args"], "level": level}}
        path = self.folder / "recipes" / f"{method}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump({"config": str(recipe.resolve()), "model": {"noise": noise}}))
        return path

    def _options(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        of_recipe = recipe_value(self.configs / f"{self.task}.yaml", "data.task_options")
        return {**of_recipe, **self.task_options, **(options or {})}

    def _run_folder(self, method: str, seed: int) -> Path:
        return self.folder / f"{method}-{seed}"
