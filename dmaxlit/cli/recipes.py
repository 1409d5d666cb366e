"""The shipped recipes, by name: ``builtin:quickstart`` is ``configs/quickstart.yaml``, in a checkout and in a wheel."""

from pathlib import Path

import dmaxlit
from dmaxlit.cli.messages import closest
from dmaxlit.errors import UserError

RECIPES = Path(dmaxlit.__file__).with_name("configs")
PREFIX = "builtin:"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, with ``builtin:``."""
    return sorted(f"{PREFIX}{path.stem}" for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> str:
    """Return the file of a shipped recipe; any other name is returned unchanged.

    Args:
        name: ``builtin:NAME``, with or without ``.yaml``, or the path of a file.

    Raises:
        UserError: If there is no shipped recipe of that name.
    """
    if not name.startswith(PREFIX):
        return name
    known = recipe_names()
    if name.removesuffix(".yaml") not in known:
        raise UserError(f"config: unknown built-in recipe {name!r}{closest(name, known)}; known: {', '.join(known)}")
    return str(RECIPES / f"{name.removeprefix(PREFIX).removesuffix('.yaml')}.yaml")


def recipe_summary(name: str) -> str:
    """Return the first sentence of the comment that a shipped recipe starts with."""
    lines = Path(recipe_path(name)).read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    return comment.partition(". ")[0].removesuffix(".") + "."
