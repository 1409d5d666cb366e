"""``dmaxlit list``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import dmaxlit
from dmaxlit.cli.arguments import call, make_parser
from dmaxlit.decoding import DECODERS
from dmaxlit.noise import NOISE
from dmaxlit.registry import Registry
from dmaxlit.tasks import TASKS

# Not imported from dmaxlit.backbone, which loads transformers.
BUILTIN_MODELS = Path(dmaxlit.__file__).with_name("models")


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    call(make_parser(command, list_names), list_names, args)


def list_names(kind: Literal["all", "noise", "decoders", "tasks", "models"] = "all") -> None:
    """List the names of noise strategies, decoders, tasks and built-in models, one line each.

    Other packages add theirs through the entry-point groups dmaxlit.noise, dmaxlit.decoders and dmaxlit.tasks. The
    options of a strategy: dmaxlit fit --model.noise.help NAME.

    Args:
        kind: Only this kind.
    """
    registries: dict[str, Registry[Any]] = {"noise": NOISE, "decoders": DECODERS, "tasks": TASKS}
    summaries: dict[str, Mapping[str, str]] = {
        group: {name: registry.summary(name) for name in registry} for group, registry in registries.items()
    }
    models = sorted(config.parent for config in BUILTIN_MODELS.glob("*/config.json"))
    summaries["models"] = {f"builtin:{model.name}": _summary(model) for model in models}
    titles = {"noise": "noise strategies", "models": "built-in models"}
    kinds = [group for group in summaries if kind in ("all", group)]
    width = max((len(name) for group in kinds for name in summaries[group]), default=0)
    for group in kinds:
        print(titles.get(group, group))
        for name, summary in summaries[group].items():
            print(f"  {name:{width}}  {summary}".rstrip())


def _summary(model: Path) -> str:
    """Return the first line of text of a model's card, after front matter and title."""
    card = model / "README.md"
    text = card.read_text() if card.is_file() else ""
    text = text.split("---\n", 2)[-1] if text.startswith("---\n") else text
    return next((line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
