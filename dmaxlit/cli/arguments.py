"""The parser of commands that are not part of LightningCLI, and the arguments they have in common."""

import inspect
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from dmaxlit.cli.config_files import ConfigFileParser, check_numbers
from dmaxlit.cli.flags import settings_of, split_flags
from dmaxlit.cli.jsonargparse_internals import ReadableTypes, SeveralValues
from dmaxlit.cli.messages import one_line
from dmaxlit.cli.option_flags import PARSER_MODE, expand_option_flags
from dmaxlit.cli.option_help import show_option_help
from dmaxlit.errors import UserError, renaming_argument
from dmaxlit.registry import Registry

if TYPE_CHECKING:
    from dmaxlit.engine import DecodeSettings
    from dmaxlit.module import DMaxModule

Dtype = Literal["float32", "bfloat16", "float16"]
T = TypeVar("T")


class _HelpFormatter(ReadableTypes, DefaultHelpFormatter):
    """jsonargparse's formatter, with types as people write them."""


class CommandParser(ConfigFileParser, SeveralValues, ArgumentParser):
    """jsonargparse's parser, with checked configuration files."""

    def check_config(self, content: dict[str, Any]) -> None:
        """Refuse ``safe``."""
        _refuse_safe(content)


def make_parser(command: str, function: Callable[..., Any], skip: Iterable[str] = ()) -> ArgumentParser:
    """Return a parser of the arguments of a function or class, explained by its docstring.

    Args:
        command: Name of the command.
        function: Function that carries out the command, or class whose instances do.
        skip: Arguments that are added by hand.
    """
    description = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
    parser = CommandParser(
        prog=f"dmaxlit {command}",
        description=description,
        parser_mode=PARSER_MODE,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument(
        "--config", action="config", help="YAML file with any of the arguments below; flags take precedence."
    )
    add_arguments = parser.add_class_arguments if isinstance(function, type) else parser.add_function_arguments
    add_arguments(function, skip=set(skip))
    tuples = {name: value for name, value in vars(parser.get_defaults()).items() if isinstance(value, tuple)}
    parser.set_defaults({name: list(value) for name, value in tuples.items()})  # shown as a user writes them
    # Taken out of the arguments before they are parsed; here for --help.
    parser.add_argument(
        "--safe", action="store_true", help="Import nothing but what is registered; see dmaxlit --help."
    )
    return parser


def call(parser: ArgumentParser, function: Callable[..., T], args: Sequence[str]) -> T:
    """Parse the arguments, call the function or class with them, and return what it returns.

    Flags take precedence over ``--config`` files, wherever these stand.

    Raises:
        UserError: If an argument is unknown, missing or of the wrong type.
    """
    files, flags = split_flags(args, lambda flag: flag == "--config")
    args = [*(part for file in files for part in file), *flags]
    show_option_help(
        args, [flag for flag in ("--decoder", "--admission", "--task") if flag[2:] in parser.get_defaults()]
    )
    try:
        settings = parser.parse_args(expand_option_flags(args, partial(settings_of, parser)))
    except ArgumentError as error:
        raise UserError(one_line(error, parser.get_defaults().keys())) from error
    arguments = settings.as_dict()
    _refuse_safe(arguments)
    for name in ("config", "safe"):
        arguments.pop(name, None)
    check_numbers(arguments)
    return function(**arguments)


def _refuse_safe(settings: Mapping[str, Any]) -> None:
    """Refuse ``safe`` from a file alone: the command line's is taken out of the arguments before they are parsed."""
    if settings.get("safe") and Registry.admits_import_paths:
        raise UserError("safe: expected on the command line (--safe), since a file is read by what it would restrict")


def load_model(
    path: str,
    device: str,
    dtype: Dtype = "float32",
    probe: bool = True,
    chat_template: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    block_length: int | None = None,
) -> "DMaxModule":
    """Load the model of ``--model`` in eval mode, with the chat template that the user chose.

    Args:
        path: Folder, ``.ckpt`` file, hub id or ``builtin:NAME``.
        device: Device of the model; ``auto`` for an accelerator if there is one.
        dtype: Type of the weights.
        probe: Check that the model obeys block masks and positions.
        chat_template: One of the tokenizer's chat templates by name, or a ``.jinja`` file. Default: the model's own.
        template_options: Values of variables that the chat template reads.
        block_length: Tokens per block. Default: the model's.

    Raises:
        UserError: If there is no such model, device, template or variable.
    """
    from dmaxlit.cli.known_warnings import silence_known_warnings
    from dmaxlit.data.chat_template import choose_template
    from dmaxlit.loading import load

    silence_known_warnings()
    with renaming_argument("model", "pretrained", "checkpoint"):
        module = load(path, device=device, dtype=dtype, probe=probe, block_length=block_length)
    choose_template(module.tokenizer, chat_template, template_options)
    return module


def decode_settings(
    module: "DMaxModule",
    decoder: str | None,
    decoder_options: Mapping[str, Any] | None,
    admission_options: Mapping[str, Any] | None,
    max_new_tokens: int | None,
    **settings: Any,
) -> "DecodeSettings":
    """Return how a model decodes, as the user chose; what was not chosen is as it was judged.

    Args:
        module: The model.
        decoder: Name of the decoder. Default: the one that the model was judged with, with its options, or ``spd``.
        decoder_options: Options of the decoder.
        admission_options: Options of the window's policy.
        max_new_tokens: Most tokens of a response. Default: that of the task the model was trained on, or 256.
        **settings: Other settings, by their names.
    """
    from dmaxlit.engine import DecodeSettings
    from dmaxlit.evaluation.evaluate import default_budget

    name, options = module.default_decoding(decoder, decoder_options)
    return DecodeSettings(
        decoder=name,
        decoder_options=options,
        admission_options=dict(admission_options or {}),
        max_new_tokens=default_budget(module) if max_new_tokens is None else max_new_tokens,
        **settings,
    )
