"""Recipes that say only what differs from another one, which they name with ``config: quickstart.yaml``.

A shipped recipe is ``builtin:NAME``, for ``--config`` and as a base (:mod:`dmaxlit.cli.recipes`).

The base is inserted before the file that names it, as if the user had passed both; the parser then merges them setting
by setting. A base that several files share is inserted once, as a second copy would undo what the first of them says.
(The parser itself also follows a ``config`` key, but replaces whole sections such as ``model``.)
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmaxlit.cli.config_files import read_config
from dmaxlit.cli.recipes import recipe_path
from dmaxlit.errors import UserError

_FLAGS = ("--config", "-c")
#: What a recipe may set, by the first part of its name; other mappings, such as options of a class, name no base.
SETTINGS = frozenset(
    {
        *("seed_everything", "trainer", "model", "data", "checkpoint", "finite_guard", "ckpt_path", "weights_only"),
        *("verbose", "output", "decoder", "decoder_options", "window", "admission", "admission_options"),
        *("max_new_tokens", "check_decoder"),
    }
)


def expand_bases(args: Sequence[str]) -> list[str]:
    """Return the arguments with the bases of each ``--config`` file before it, unless they are there already.

    Args:
        args: Command-line arguments.

    Raises:
        UserError: If a base or a shipped recipe does not exist, or a file is its own base.
    """
    expanded: list[str] = []
    taken: set[Path] = set()  # the files so far
    is_file = False  # whether this argument is the value of --config
    for arg in args:
        flag, equals, value = arg.partition("=")
        if is_file or (flag in _FLAGS and equals):
            path = recipe_path(arg if is_file else value)
            if is_file:
                expanded.pop()
            for config in [*(base for base in _bases_of(path, []) if Path(base).resolve() not in taken), path]:
                expanded += ["--config", config]
                taken.add(Path(config).resolve())
            is_file = False
        else:
            is_file = arg in _FLAGS
            expanded.append(arg)
    return expanded


def without_base(settings: Any) -> Any:
    """Return the settings of a file without the name of its base, which :func:`expand_bases` has inserted."""
    if isinstance(settings, dict) and _names_base(settings):
        return {key: value for key, value in settings.items() if key != "config"}
    return settings


def _names_base(settings: dict[str, Any]) -> bool:
    is_recipe = len(settings) == 1 or any(str(key).partition(".")[0] in SETTINGS for key in settings)
    return is_recipe and isinstance(settings.get("config"), str)


def _bases_of(path: str, users: list[Path]) -> list[str]:
    """Return the bases of a file, the farthest first. A path that is no file is left for the parser to refuse."""
    file = Path(path)
    if not os.path.isfile(file):
        return []
    if file.resolve() in users:
        raise UserError(f"{path}: is its own base")
    settings = read_config(file)
    if isinstance(settings, dict) and not isinstance(settings.get("config", ""), str):
        raise UserError(f"{path}: config: expected the name of the file it starts from, got {settings['config']!r}")
    if not isinstance(settings, dict) or not _names_base(settings):
        return []
    base = file.parent / recipe_path(settings["config"])
    if not base.is_file():
        raise UserError(f"{path}: config: expected the file it starts from, got {settings['config']!r} (no such file)")
    return [*_bases_of(str(base), [*users, file.resolve()]), str(base)]
