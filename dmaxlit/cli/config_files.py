"""Configuration files: text of a user that is checked before the parser interprets it."""

import os
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from dmaxlit.cli.messages import one_line
from dmaxlit.errors import UserError, describe_value, reason_of
from dmaxlit.tasks.json_values import TooDeepError
from dmaxlit.tasks.text_files import parse_yaml

_MAX_VALUES = 100_000  # in one file, with the copies that aliases stand for


def read_config(path: str | Path) -> Any:
    """Return the content of a YAML file.

    Args:
        path: The file.

    Raises:
        UserError: If it cannot be read, is not UTF-8 or not YAML, or is nested or large beyond reason.
    """
    try:
        content = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"{path}: expected text in UTF-8, got the byte 0x{byte:02x} at {error.start}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except TooDeepError as error:
        raise UserError(f"{path}: expected settings, got a value {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: is not YAML ({reason_of(error)})") from error
    check_size(content, str(path))
    return content


def read_value(name: str, text: str) -> Any:
    """Return the value of a flag that is written as YAML; what is null without being written so is a text.

    Args:
        name: The setting.
        text: Its value.

    Raises:
        UserError: If it is not YAML, is nested or large beyond reason, or is no number.
    """
    try:
        value = parse_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: expected a value, got {text!r}, which is not YAML ({reason_of(error)})") from error
    if value is None and text.strip() != "null":  # such as a comment
        return text
    check_size(value, name)
    check_numbers({name: value})
    return value


def read_entries(argument: str, value: str | list[Any]) -> tuple[list[Any], str]:
    """Return the entries of a list: itself, its YAML, in a .yaml file, or names separated by commas; and the source.

    Args:
        argument: The setting.
        value: Its value.

    Raises:
        UserError: If it is no list, or cannot be read.
    """
    source = argument
    if isinstance(value, list):
        return value, source
    if value.lstrip().startswith("["):
        content = read_value(argument, value)
    elif value.endswith((".yaml", ".yml")):
        content, source = read_config(value), value
    else:
        content = [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(content, list):
        raise UserError(f"{argument}: expected a list of names or mappings in {value!r}, got {describe_value(content)}")
    return content, source


def yaml_line(value: Any) -> str:
    """Return a value as YAML in one line."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False)).strip()


def check_size(content: Any, source: str) -> None:
    """Refuse a value that contains itself, or is huge once its aliases are expanded: parsing it would never end.

    Args:
        content: What was read from YAML.
        source: Name of the file or text, for the message.

    Raises:
        UserError: If so.
    """
    try:
        size = _size(content, {}, set())
    except RecursionError as error:
        raise UserError(f"{source}: expected settings, got a value nested too deeply") from error
    if size > _MAX_VALUES:
        raise UserError(f"{source}: expected settings, got more than {_MAX_VALUES} values (aliases expanded)")


def _size(value: Any, known: dict[int, float], ancestors: set[int]) -> float:
    """Return the number of values in ``value``, infinite if it contains itself. A shared part is visited once."""
    if not isinstance(value, (dict, list)):
        return 1
    key = id(value)
    if key in ancestors:
        return float("inf")
    if key not in known:
        ancestors.add(key)
        children = value.values() if isinstance(value, dict) else value
        known[key] = 1 + sum(_size(child, known, ancestors) for child in children)
        ancestors.remove(key)
    return known[key]


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Refuse settings that are no number: every comparison with nan is false, so it would pass checks of ranges.

    Args:
        settings: Values by their dotted names; lists and mappings are searched.

    Raises:
        UserError: For the first.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            check_numbers({f"{name}.{key}": part for key, part in value.items()})
        elif isinstance(value, (list, tuple)):
            check_numbers({f"{name}[{index}]": part for index, part in enumerate(value)})
        elif isinstance(value, float) and value != value:
            raise UserError(f"{name}: expected a number, got nan")


class ConfigFileParser:
    """A parser's mixin that checks configuration files before it parses them, and names the file in its errors."""

    def check_config(self, content: dict[str, Any]) -> None:
        """Refuse what the parser would misunderstand.

        Args:
            content: The settings in a file.
        """

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file.

        Raises:
            UserError: If it cannot be read, or only once, or a setting in it is refused.
        """
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise UserError(f"{path}: expected a file, which is read more than once, got a pipe or a device")
        content = read_config(path)
        if not isinstance(content, dict):
            raise UserError(f"{path}: expected a mapping of settings, got {describe_value(content)}")
        try:
            self.check_config(content)
            return cast(Any, super()).parse_path(path, *args, **kwargs)
        except (ArgumentError, UserError) as error:
            raise UserError(f"{path}: {one_line(error)}") from error
