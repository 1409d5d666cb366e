"""``dmaxlit export``."""

from dmaxlit.cli.arguments import call, load_model, make_parser

__all__ = ["export", "run"]


def run(command: str, args: list[str]) -> None:
    """Carry out the command."""
    call(make_parser(command, export), export, args)


def export(checkpoint: str, output: str) -> None:
    """Write a trained model as a folder that dmaxlit.load and transformers both read.

    The folder holds safetensors, the config, the tokenizer, and dmaxlit.json with the block length and the task.

    Args:
        checkpoint: A .ckpt file that fit wrote; also a folder, hub id or builtin:NAME, of which it makes a copy.
        output: Folder to write; an earlier export there is replaced.
    """
    load_model(checkpoint, "cpu").export(output)
    print(output)
