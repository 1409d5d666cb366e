"""What the commands that are no part of LightningCLI share: their parser, and the arguments they have in common."""

import inspect
import json
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from dmaxlit.cli.messages import one_line
from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule

__all__ = ["Dtype", "call", "load_model", "make_parser", "read_prompts", "with_options"]

Dtype = Literal["float32", "bfloat16", "float16"]

_WITH_OPTIONS = ("--decoder", "--task", "--data.task")


def make_parser(command: str, function: Callable[..., Any], skip: Iterable[str] = ()) -> ArgumentParser:
    """A parser of a function's arguments, explained by its docstring.

    Args:
        command: Name of the command.
        function: What carries it out.
        skip: Arguments that are added by hand.
    """
    description = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
    parser = ArgumentParser(prog=f"dmaxlit {command}", description=description, exit_on_error=False)
    parser.add_argument(
        "--config", action="config", help="YAML file with any of the arguments below; flags win over it."
    )
    parser.add_function_arguments(function, skip=set(skip))
    return parser


def call(parser: ArgumentParser, function: Callable[..., None], args: Sequence[str]) -> None:
    """Parse the arguments and call the function with them.

    Raises:
        UserError: If there is something wrong with them.
    """
    try:
        settings = parser.parse_args(with_options(args))
    except ArgumentError as error:
        raise UserError(one_line(error, parser.get_defaults().keys())) from error
    given = settings.as_dict()
    given.pop("config", None)
    function(**given)


def with_options(args: Sequence[str]) -> list[str]:
    """The arguments with ``--decoder.threshold 0.5`` for ``--decoder_options.threshold 0.5``, and so for ``--task``.

    Both are chosen by name, with their options beside them as a mapping; on the command line flags are easier.
    """
    return [
        next((f"{flag}_options{arg.removeprefix(flag)}" for flag in _WITH_OPTIONS if arg.startswith(f"{flag}.")), arg)
        for arg in args
    ]


def load_model(path: str, device: str, dtype: Dtype = "float32") -> "DMaxModule":
    """A model in eval mode on a device, ``auto`` for an accelerator if there is one, with weights of a type.

    Raises:
        UserError: If there is no such model or device.
    """
    import torch

    from dmaxlit.cli.quiet import silence_known_warnings
    from dmaxlit.loading import load

    silence_known_warnings()
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = "cpu" if accelerator is None else accelerator.type
    try:
        return load(path, device=device, dtype=dtype)
    except UserError:
        raise
    except (RuntimeError, AssertionError) as error:  # torch's answers to a device that is not there
        raise UserError(f"device: {' '.join(str(error).split())}") from error


def read_prompts(path: str) -> list[str]:
    """Prompts from a file or, for ``-``, from standard input.

    Args:
        path: ``.jsonl`` with objects that hold ``prompt`` or ``question``, or with texts; else one prompt a line.

    Raises:
        UserError: If there is no such file, it holds no prompt, or a row is not one; the message names the row.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts: cannot read {path!r} ({error})") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    is_json = path.endswith((".jsonl", ".json", ".ndjson"))
    prompts = [_prompt(line, f"{path}, row {number}") if is_json else line for number, line in lines]
    if not prompts:
        raise UserError(f"prompts: expected at least one, found none in {path!r}")
    return prompts


def _prompt(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: is not valid JSON ({error})") from error
    prompt = row.get("prompt", row.get("question")) if isinstance(row, dict) else row
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{place}: expected a text, or an object with a prompt or question, got {line.strip()[:80]}")
    return prompt
