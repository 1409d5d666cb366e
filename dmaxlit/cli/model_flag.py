"""``--model builtin:chain-base`` for ``fit`` and its siblings, as the other commands have it.

There ``model`` is a section of settings, of which the model that a run starts from is one. (``--model my_file.MyModel``
names the class of the module: :mod:`dmaxlit.cli.model_class`.)
"""

from collections.abc import Sequence

from dmaxlit.errors import UserError

_FLAG = "--model"
_SETTING = "--model.backbone.pretrained"
_SETTINGS = (".yaml", ".yml", ".json")  # files of settings for the section


def expand_model_flag(args: Sequence[str]) -> list[str]:
    """Return the arguments with ``--model.backbone.pretrained NAME`` for ``--model NAME``.

    Args:
        args: Command-line arguments.

    Raises:
        UserError: If the model is a ``.ckpt`` file: it has the weights, but not the settings, of a run.
    """
    expanded: list[str] = []
    is_value = False  # whether this argument is the value of --model
    for arg in args:
        flag, equals, value = arg.partition("=")
        if is_value:
            expanded[-1:] = _setting(arg)
        elif flag == _FLAG and equals:
            expanded += _setting(value)
        else:
            expanded.append(arg)
        is_value = arg == _FLAG and not is_value
    return expanded


def model_argument(args: Sequence[str]) -> str:
    """Return the name, for messages, of the argument that says which model a run starts from.

    Args:
        args: Command-line arguments.
    """
    return "model" if expand_model_flag(args) != list(args) else _SETTING.removeprefix("--")


def _setting(value: str) -> list[str]:
    if value.endswith(_SETTINGS) or value.startswith(("{", "-")):
        return [_FLAG, value]
    if value.endswith(".ckpt"):
        raise UserError(
            f"model: expected a folder, hub id or builtin:NAME, got {value!r}; a checkpoint is given as "
            f"--ckpt_path, or `dmaxlit export --model {value} --output FOLDER` makes a folder of it"
        )
    return [_SETTING, value]
