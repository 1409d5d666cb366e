"""The models of the benchmark of the frontier: the base of a setting, and what is trained from it."""

import re
from dataclasses import dataclass
from pathlib import Path

from dmaxlit.bench.command import step_options
from dmaxlit.bench.corpus import distilled_corpus
from dmaxlit.bench.frontier_settings import FRONTIER_METHODS, Setting
from dmaxlit.bench.shipped_base import SHIPPED_BASE
from dmaxlit.bench.trained_model import trained_model, training_seconds

BASE_RECIPE = "pretrain.yaml"
_BATCH_SIZE = 32  # of that recipe


@dataclass(frozen=True)
class FrontierModels:
    """The models under a folder, each trained when it is first asked for.

    Args:
        folder: Folder of the models, and of the corpus that all methods train on.
        setting: Task and base.
        configs: Folder of the recipes.
        num_prompts: Prompts that the base distils the corpus from.
        steps: Training steps of on-policy training.
    """

    folder: Path
    setting: Setting
    configs: Path
    num_prompts: int
    steps: int

    def base(self) -> str:
        """Return folder or name of the base."""
        if not self.setting.base_options:
            return SHIPPED_BASE
        return self._trained(
            "base",
            0,
            BASE_RECIPE,
            f"--model.backbone.pretrained={SHIPPED_BASE}",
            "--model.backbone.config=null",
            "--model.backbone.tokenizer=null",
            f"--data.num_train={_BATCH_SIZE * self.setting.base_steps}",
            *step_options(self.setting.base_steps),
            *self.setting.base_options,
        )

    def model(self, method: str, seed: int) -> str:
        """Return folder or name of a model.

        Args:
            method: ``base``, or a method.
            seed: Training seed.

        Raises:
            UserError: If training fails.
        """
        if method == "base":
            return self.base()
        trained = FRONTIER_METHODS[method]
        start = self.model(trained.start, seed)
        corpus = distilled_corpus(self.base(), self.folder / "corpus.jsonl", self.num_prompts)
        return self._trained(
            method,
            seed,
            trained.recipe,
            f"--model.backbone.pretrained={start}",
            f"--data.corpus={corpus}",
            "--data.distill=null",
            *step_options(max(1, round(trained.share * self.steps))),
            *trained.overrides,
        )

    def cpu_seconds(self, method: str, seed: int) -> float | None:
        """Return the CPU time of training a model, with that of the model it started from.

        It is 0 for the base, and None where a model was not trained here but put into the folder.
        """
        if method == "base":
            return 0.0
        start, own = (
            self.cpu_seconds(FRONTIER_METHODS[method].start, seed),
            training_seconds(self._run_folder(method, seed)),
        )
        return None if start is None or own is None else start + own

    def _trained(self, name: str, seed: int, recipe: str, *options: str) -> str:
        task = [f"--data.task_options.{name}={value}" for name, value in self.setting.task_options.items()]
        return trained_model(self._run_folder(name, seed), self.configs / recipe, seed, *task, *options)

    def _run_folder(self, name: str, seed: int) -> Path:
        return self.folder / file_stem(name, seed)


def file_stem(method: str, seed: int) -> str:
    """Return the name of a model's files."""
    return f"{re.sub(r'[^a-z_]+', '-', method)}-{seed}"
