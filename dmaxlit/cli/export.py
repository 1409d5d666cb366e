"""``dmaxlit export``."""

from dmaxlit.cli.arguments import call, load_model, make_parser


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    call(make_parser(command, export), export, args)


def export(checkpoint: str, output: str) -> None:
    """Write a trained model as a folder that dmaxlit.load and transformers both read.

    The folder holds safetensors, the config, the tokenizer, and dmaxlit.json with the block length and the task.

    Args:
        checkpoint: A .ckpt file that fit wrote; also a folder, hub id or builtin:NAME, which is copied.
        output: Folder to write; an earlier export there is replaced.
    """
    load_model(checkpoint, "cpu").export(output)
    print(output)
