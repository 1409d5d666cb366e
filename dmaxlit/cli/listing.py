"""``dmaxlit list``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import dmaxlit
from dmaxlit.cli.arguments import call, make_parser
from dmaxlit.cli.class_summaries import class_summaries
from dmaxlit.cli.recipes import recipe_names, recipe_summary
from dmaxlit.decoding import DECODERS
from dmaxlit.decoding.admission import ADMISSIONS
from dmaxlit.errors import printable
from dmaxlit.noise import NOISE
from dmaxlit.registry import Registry
from dmaxlit.tasks import TASKS

Kind = Literal["all", "noise", "decoders", "admissions", "tasks", "metrics", "callbacks", "models", "recipes"]
PACKAGE = Path(dmaxlit.__file__).parent
BUILTIN_MODELS = PACKAGE / "models"  # not imported from dmaxlit.backbone, which loads transformers


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    call(make_parser(command, list_names), list_names, args)


def list_names(kind: Kind = "all") -> None:
    """List noise strategies, decoders, admission policies of windows, tasks, metrics, callbacks, models and recipes.

    Other packages add theirs through the entry-point groups dmaxlit.noise, dmaxlit.decoders, dmaxlit.admissions and
    dmaxlit.tasks. The options of a strategy: dmaxlit fit --model.noise.help NAME. A recipe: dmaxlit fit --config
    builtin:NAME.

    Args:
        kind: Only this kind.
    """
    kinds = [group for group in _SUMMARIES if kind in ("all", group)]
    summaries = {group: _SUMMARIES[group]() for group in kinds}
    width = max((len(name) for group in kinds for name in summaries[group]), default=0)
    for group in kinds:
        print(_TITLES.get(group, group))
        for name, summary in summaries[group].items():
            print(printable(f"  {name:{width}}  {summary}".rstrip()))


def _of_registry(registry: Registry[Any]) -> dict[str, str]:
    return {name: registry.summary(name) for name in registry}


def _classes(folder: str, bases: tuple[str, ...]) -> dict[str, str]:
    """Return the classes in a folder of the package that derive from one of some bases, named by their last parts."""
    return class_summaries((path for path in (PACKAGE / folder).glob("[!_]*.py") if path.stem != "base"), bases)


def _models() -> dict[str, str]:
    models = sorted(config.parent for config in BUILTIN_MODELS.glob("*/config.json"))
    return {f"builtin:{model.name}": _summary(model) for model in models}


def _summary(model: Path) -> str:
    """Return the first line of text of a model's card, after front matter and title."""
    card = model / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    text = text.split("---\n", 2)[-1] if text.startswith("---\n") else text
    return next((line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")), "")


_TITLES = {
    "noise": "noise strategies",
    "admissions": "admission policies of windows",
    "models": "built-in models",
    "recipes": "built-in recipes",
}
_SUMMARIES: dict[str, Callable[[], dict[str, str]]] = {
    "noise": lambda: _of_registry(NOISE),
    "decoders": lambda: _of_registry(DECODERS),
    "admissions": lambda: _of_registry(ADMISSIONS),
    "tasks": lambda: _of_registry(TASKS),
    "metrics": lambda: _classes("metrics", ("Metric",)),
    "callbacks": lambda: _classes("callbacks", ("Callback", "Checkpoint", "ModuleChange", "ProgressBar")),
    "models": _models,
    "recipes": lambda: {name: recipe_summary(name) for name in recipe_names()},
}
