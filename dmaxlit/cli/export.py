"""``dmaxlit export``."""

from dmaxlit.cli.arguments import Dtype, call, load_model, make_parser
from dmaxlit.cli.renames import current_flags

_RENAMED = {"--checkpoint": "--model"}


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    call(make_parser(command, export), export, current_flags(args, _RENAMED))


def export(model: str, output: str, dtype: Dtype = "float32", probe: bool = True) -> None:
    """Write a trained model as a folder that dmaxlit.load and transformers both read.

    The folder holds safetensors, the config, the tokenizer, a model card, and dmaxlit.json with the block length and
    the task. A card that you wrote or edited in an earlier export stays.

    Args:
        model: A .ckpt file that fit wrote; also a folder, hub id or builtin:NAME, which is copied.
        output: Folder to write; an earlier export there is replaced.
        dtype: Type to write the weights in. The bias by which experts are chosen stays float32.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
    """
    load_model(model, "cpu", dtype, probe).export(output)
    print(output)
