"""``dmaxlit convert``."""

from argparse import SUPPRESS
from pathlib import Path
from typing import Any, Literal

from dmaxlit.cli.arguments import call, make_parser
from dmaxlit.cli.renames import announce
from dmaxlit.errors import UserError, printable, renaming_argument

_POSITIONAL = {"source": "model", "dest": "output"}  # old and current names


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    parser = make_parser(command, convert)
    for name in _POSITIONAL:
        parser.add_argument(name, nargs="?", help=SUPPRESS)
    call(parser, _convert, args)


def _convert(**arguments: Any) -> None:
    """Call :func:`convert` with the model and the output that were given without a flag, as in earlier versions."""
    for old, new in _POSITIONAL.items():
        if (value := arguments.pop(old)) is None:
            continue
        announce(f"the argument {value!r} of convert", f"--{new} {value}")
        if arguments[new] is not None:
            raise UserError(f"{new}: expected one, got {arguments[new]!r} and {value!r}")
        arguments[new] = value
    convert(**arguments)


def convert(
    model: str | None = None,
    output: str | None = None,
    to: Literal["transformers", "llada2"] | None = None,
    max_shard_size: str = "5GB",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    like: str | None = None,
) -> None:
    """Rewrite a LLaDA2-MoE checkpoint in the form of transformers (Glm4Moe), or such a model in its published form.

    Weights are copied bit by bit, one output shard at a time, together with configuration, tokenizer and further files.
    Converting there and back gives the same tensors, names, types and fields. No remote code is run.

    Args:
        model: Checkpoint to convert: a folder, hub id, or .ckpt file that fit wrote.
        output: Folder to write; it must not exist.
        to: Form to write: transformers, or llada2 as published. Default: the one that the model does not have.
        max_shard_size: Largest file, such as 5GB. Twice that much memory is enough.
        dtype: Type to write the weights in. Default: their stored type. The router's bias always keeps its type.
        like: Published checkpoint, a folder or hub id, whose other files (tokenizer, modelling code, generation
            settings) replace the model's. A model exported after training needs them to be served by the published
            engine.
    """
    from dmaxlit.backbone.formats.convert import convert as convert_checkpoint
    from dmaxlit.backbone.formats.convert import refuse_existing
    from dmaxlit.cli.known_warnings import silence_known_warnings
    from dmaxlit.files import expanded

    if model is None or output is None:
        raise UserError(f"the following arguments are required: {'model' if model is None else 'output'}")
    silence_known_warnings()
    output = expanded(output)
    with renaming_argument("model", "pretrained", "checkpoint"):
        if Path(model).suffix != ".ckpt":
            form = convert_checkpoint(model, output, to, max_shard_size, dtype, like)
        else:
            from dmaxlit.checkpoints.temporary_model import temporary_model

            refuse_existing(Path(output))  # before the work of exporting
            with temporary_model(model, _existing(Path(output).absolute().parent)) as folder:
                form = convert_checkpoint(folder, output, to, max_shard_size, dtype, like)
    print(printable(f"{output}: {model} as {form}"))


def _existing(folder: Path) -> Path:
    """Return the folder, or the closest existing one above it."""
    return folder if folder.is_dir() else _existing(folder.parent)
