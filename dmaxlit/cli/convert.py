"""``dmaxlit convert``."""

from pathlib import Path
from typing import Literal

from dmaxlit.cli.arguments import call, make_parser


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    parser = make_parser(command, convert, skip=["source", "dest"])
    parser.add_argument("source", help="Checkpoint to convert: a folder, hub id, or .ckpt file that fit wrote.")
    parser.add_argument("dest", help="Folder to write; it must not exist.")
    call(parser, convert, args)


def convert(
    source: str,
    dest: str,
    to: Literal["transformers", "llada2"] | None = None,
    max_shard_size: str = "5GB",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    like: str | None = None,
) -> None:
    """Rewrite a LLaDA2-MoE checkpoint in the form of transformers (Glm4Moe), or such a model in its published form.

    Weights are copied bit by bit, one output shard at a time, together with configuration, tokenizer and further files.
    Converting there and back gives the same tensors, names, types and fields. No remote code is run.

    Args:
        source: Checkpoint to convert: a folder, hub id, or .ckpt file that fit wrote.
        dest: Folder to write; it must not exist.
        to: Form to write: transformers, or llada2 as published. Default: the one that the source does not have.
        max_shard_size: Largest file, such as 5GB. Twice that much memory is enough.
        dtype: Type to write the weights in. Default: their stored type. The router's bias always keeps its type.
        like: Published checkpoint, a folder or hub id, whose other files (tokenizer, modelling code, generation
            settings) replace the source's. A model exported after training needs them to be served by the published
            engine.
    """
    from dmaxlit.backbone.formats.convert import convert as convert_checkpoint
    from dmaxlit.backbone.formats.convert import refuse_existing
    from dmaxlit.cli.known_warnings import silence_known_warnings

    silence_known_warnings()
    if Path(source).suffix != ".ckpt":
        form = convert_checkpoint(source, dest, to, max_shard_size, dtype, like)
    else:
        from dmaxlit.checkpoints.temporary_model import temporary_model

        refuse_existing(Path(dest))  # before the work of exporting
        with temporary_model(source, _existing(Path(dest).absolute().parent)) as folder:
            form = convert_checkpoint(folder, dest, to, max_shard_size, dtype, like)
    print(f"{dest}: {source} as {form}")


def _existing(folder: Path) -> Path:
    """Return the folder, or the closest existing one above it."""
    return folder if folder.is_dir() else _existing(folder.parent)
