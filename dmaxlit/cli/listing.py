"""``dmaxlit list``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dmaxlit.backbone.formats.hub import BUILTIN_MODELS
from dmaxlit.cli.arguments import call, make_parser
from dmaxlit.decoding import DECODERS
from dmaxlit.noise import NOISE
from dmaxlit.registry import Registry
from dmaxlit.tasks import TASKS

__all__ = ["list_names", "run"]


def run(command: str, args: list[str]) -> None:
    """Carry out the command."""
    call(make_parser(command, list_names), list_names, args)


def list_names(kind: Literal["all", "noise", "decoders", "tasks", "models"] = "all") -> None:
    """List what can be chosen by name, one line each: noise strategies, decoders, tasks and built-in models.

    Other packages add theirs through the entry-point groups dmaxlit.noise, dmaxlit.decoders and dmaxlit.tasks. What a
    strategy's options are: dmaxlit fit --model.noise.help NAME.

    Args:
        kind: Only this kind.
    """
    registries: dict[str, Registry[Any]] = {"noise": NOISE, "decoders": DECODERS, "tasks": TASKS}
    found: dict[str, Mapping[str, str]] = {
        title: {name: registry.summary(name) for name in registry} for title, registry in registries.items()
    }
    models = sorted(config.parent for config in BUILTIN_MODELS.glob("*/config.json"))
    found["models"] = {f"builtin:{model.name}": _summary(model) for model in models}
    titles = {"noise": "noise strategies", "models": "built-in models"}
    shown = [title for title in found if kind in ("all", title)]
    width = max((len(name) for title in shown for name in found[title]), default=0)
    for title in shown:
        print(titles.get(title, title))
        for name, summary in found[title].items():
            print(f"  {name:{width}}  {summary}".rstrip())


def _summary(model: Path) -> str:
    """The first line of its card that is text: no title, no front matter."""
    card = model / "README.md"
    text = card.read_text() if card.is_file() else ""
    text = text.split("---\n", 2)[-1] if text.startswith("---\n") else text
    return next((line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
