"""The command line, run by benchmarks in a separate process as a user would run it."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dmaxlit.bench.termination import terminating
from dmaxlit.errors import UserError, reason_of
from dmaxlit.tasks.text_files import parse_yaml

#: The shipped recipes.
RECIPE_FOLDER = Path(__file__).parents[1] / "configs"


def run_dmaxlit(*arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Run ``python -m dmaxlit ARGUMENTS`` in a new process, whose output is passed through.

    Args:
        arguments: Command and options.
        environment: Its environment. Default: that of this process, ``OMP_NUM_THREADS`` included.

    Raises:
        UserError: If the command fails, with the last line that it wrote to stderr.
    """
    run_module("dmaxlit", *arguments, name=arguments[0], environment=environment)


def run_module(module: str, *arguments: str, name: str, environment: Mapping[str, str] | None = None) -> None:
    """Run ``python -m MODULE ARGUMENTS`` in a new process, as :func:`run_dmaxlit` does.

    Args:
        module: The module.
        arguments: Its arguments.
        name: What a message calls it.
        environment: Its environment.

    Raises:
        UserError: If it fails.
    """
    last_line, pipe = "", subprocess.PIPE
    command = [sys.executable, "-m", module, *arguments]
    with terminating(command, stderr=pipe, errors="replace", env=environment) as process:
        assert process.stderr is not None, "a pipe was requested"
        for line in process.stderr:
            sys.stderr.write(line)
            last_line = line.strip() or last_line
    if process.returncode != 0:
        reason = last_line.removeprefix("error: ") or "no message"
        raise UserError(f"{name} failed with exit status {process.returncode}: {reason}")


def fit(recipe: Path, folder: Path, seed: int, *options: str, environment: Mapping[str, str] | None = None) -> Path:
    """Train a model with a recipe on one device, without its callbacks, logs and validation.

    Args:
        recipe: Configuration file.
        folder: Folder of the run. An interrupted run is resumed there.
        seed: Training seed.
        options: Further options of ``dmaxlit fit``; they override the recipe.
        environment: Environment of the process. Default: that of this one.

    Returns:
        The last checkpoint.

    Raises:
        UserError: If training fails.
    """
    run_dmaxlit(
        "fit",
        f"--config={recipe}",
        f"--seed_everything={seed}",
        f"--trainer.default_root_dir={folder}",
        "--trainer.devices=1",  # all would take several batches for each step
        "--trainer.callbacks=null",
        "--trainer.logger=false",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        *options,
        environment=environment,
    )
    return folder / "checkpoints" / "last.ckpt"


def check_recipes(configs: Path, names: Iterable[str]) -> None:
    """Refuse a folder that lacks a recipe.

    Args:
        configs: The folder.
        names: File names of the recipes.

    Raises:
        UserError: For the first that is not there.
    """
    for name in names:
        if not (configs / name).is_file():
            raise UserError(f"configs: expected a folder with {name}, got {str(configs)!r}")


def recipe_hashes(configs: Path, names: Iterable[str]) -> dict[str, str]:
    """Return a hash of what each recipe sets, its bases included and comments left out, by file name.

    Args:
        configs: The folder of the recipes.
        names: File names of the recipes.

    Raises:
        UserError: If one is not YAML.
    """
    return {
        name: hashlib.sha256(json.dumps(_chain(configs / name), default=str).encode()).hexdigest() for name in names
    }


def _chain(path: Path, *users: Path) -> list[Any]:
    """Return the content of a recipe and of its bases."""
    content = _read(path)
    name = content.get("config") if isinstance(content, dict) else None
    if not isinstance(name, str):
        return [content]
    shipped = name.removeprefix("builtin:")
    base = path.parent / name if shipped == name else RECIPE_FOLDER / f"{shipped.removesuffix('.yaml')}.yaml"
    if not base.is_file() or base in users:  # training refuses it
        return [content]
    return [{**content, "config": None}, *_chain(base, *users, path)]


def _read(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise UserError(f"configs: cannot read {str(path)!r} ({reason_of(error)})") from error


def recipe_value(path: Path, name: str) -> Any:
    """Return what a recipe itself sets, its base left aside.

    Args:
        path: The recipe.
        name: The setting, its sections separated by dots.

    Raises:
        UserError: If it sets nothing of that name, or is not YAML.
    """
    value = _read(path)
    for section in name.split("."):
        if not isinstance(value, dict) or section not in value:
            raise UserError(f"configs: expected {name} in {path}, found none")
        value = value[section]
    return value


def step_options(steps: int) -> tuple[str, str]:
    """Return the options of ``dmaxlit fit`` for a number of steps, over which the learning rate decays too."""
    return f"--trainer.max_steps={steps}", f"--model.lr_scheduler.init_args.T_max={steps}"
