"""``--task.gsm8k.path FILE``: options of one of several tasks, by its name or label."""

from collections.abc import Mapping, Sequence
from typing import Any

from dmaxlit.cli.config_files import read_value
from dmaxlit.cli.flags import split_flags
from dmaxlit.errors import UserError, describe_value

_FLAG = "--task."


def take_task_flags(args: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments without ``--task.NAME.OPTION VALUE``, and the values by ``NAME.OPTION``.

    Raises:
        UserError: If such a flag has no value, or the value is not YAML.
    """
    flags, rest = split_flags(args, lambda flag: flag.startswith(_FLAG))
    return rest, {flag.removeprefix(_FLAG): read_value(flag.removeprefix("--"), text) for flag, text in flags}


def options_by_task(
    names: Sequence[str], settings: Mapping[str, Any], flags: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the options of each task.

    Args:
        names: Names and labels of the tasks.
        settings: Options by name or label, from a configuration.
        flags: Values by ``NAME.OPTION``, which take precedence. An option that is a mapping may be given in parts.

    Raises:
        UserError: If a flag has the name of no task, or no option, or the settings are no options.
    """
    options: dict[str, dict[str, Any]] = {}
    for name, own in settings.items():
        if not isinstance(own, dict):
            raise UserError(f"task_options.{name}: expected options by their names, got {describe_value(own)}")
        options[name] = dict(own)
    for flag, value in flags.items():
        name = max((name for name in names if flag.startswith(f"{name}.")), key=len, default="")
        *parents, option = flag.removeprefix(f"{name}.").split(".")
        if not name or not all((*parents, option)):
            known = ", ".join(names) or "none"
            raise UserError(
                f"task.{flag}: expected --task.NAME.OPTION of one of the tasks ({known}), got --task.{flag}"
            )
        mapping = options.setdefault(name, {})
        for parent in parents:
            inner = mapping.get(parent)
            mapping[parent] = dict(inner) if isinstance(inner, dict) else {}
            mapping = mapping[parent]
        mapping[option] = value
    return options
