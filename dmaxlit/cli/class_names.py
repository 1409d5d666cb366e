"""Classes by name wherever the parser expects one: ``on_policy`` or ``OnPolicyNoise``, ``MuonAdamW``, ``LinearLR``.

The parser knows classes by their import paths. Names become import paths before it sees them: in the arguments here,
and in YAML by a custom loader. Naming a class also means its own defaults: without them, options of the class
configured before would persist in the new one wherever it has an option of the same name.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# These imports make our optimiser, schedule and strategy known as subclasses of their base classes.
import dmaxlit.training.fsdp
import dmaxlit.training.lr_schedules
import dmaxlit.training.muon  # noqa: F401
from dmaxlit.cli.base_configs import without_base
from dmaxlit.cli.config_files import read_value, yaml_line
from dmaxlit.cli.jsonargparse_internals import denied_import, register_loader
from dmaxlit.cli.renames import current_args, current_options, current_path, current_paths
from dmaxlit.errors import UserError
from dmaxlit.noise import NOISE
from dmaxlit.registry import Registry
from dmaxlit.tasks import TASKS

PARSER_MODE = "dmaxlit"


@dataclass(frozen=True)
class ClassOption:
    """A setting whose value is a class with options.

    Args:
        known: The classes: a registry, or a base class whose subclasses are meant.
        num_positional: Number of leading constructor arguments that are not options, because the module passes them.
        bare: Whether a name alone means the class. A task's does not: its options are a separate setting.
        other_names: Whether a name that no class has is left for Lightning, as ``ddp`` is.
    """

    known: Registry[Any] | type[Any]
    num_positional: int = 0
    bare: bool = True
    other_names: bool = False


CLASS_OPTIONS: dict[tuple[str, str], ClassOption] = {
    ("model", "noise"): ClassOption(NOISE),
    ("model", "optimizer"): ClassOption(Optimizer, num_positional=1),
    ("model", "lr_scheduler"): ClassOption(LRScheduler, num_positional=1),
    ("data", "task"): ClassOption(TASKS, bare=False),
    ("trainer", "strategy"): ClassOption(Strategy, other_names=True),
}


def class_path(known: Registry[Any] | type[Any], name: str) -> str:
    """Return the import path of a class given by registered name, class name or import path.

    Args:
        known: A registry, or a base class.
        name: The name. One that no subclass of a base class has is returned unchanged, for the parser to refuse.

    Raises:
        UserError: If a registry has no such class.
    """
    name = current_path(name)
    if isinstance(known, Registry):
        namesakes = [cls for cls in map(known.get, known) if cls.__name__ == name]
        cls: type[Any] | None = namesakes[0] if namesakes else known.get(name)
    elif name == ReduceLROnPlateau.__name__:
        cls = ReduceLROnPlateau  # Lightning's, which has the option `monitor`; torch's class has the same name
    else:
        cls = next((cls for cls in _subclasses(known) if cls.__name__ == name), None)
    return name if cls is None else f"{cls.__module__}.{cls.__qualname__}"


def expand_class_names(args: Sequence[str], class_options: Mapping[tuple[str, str], ClassOption]) -> list[str]:
    """Return the arguments with names of classes replaced by import paths and defaults.

    Args:
        args: Command-line arguments.
        class_options: Settings whose values are classes, as ``--a.b NAME``, ``--a.b=NAME`` or ``--a.b.help NAME``.

    Raises:
        UserError: If a value that begins as a mapping is not YAML, or its options are no mapping.
    """
    flags = {f"--{'.'.join(path)}": option for path, option in class_options.items() if option.bare}
    expanded: list[str] = []
    pending = ""  # flag whose value is the next argument
    for arg in current_args(args):
        flag, equals, value = (pending, "", arg) if pending else arg.partition("=")
        option = flags.get(flag.removesuffix(".help"))
        if option is None:
            expanded.append(arg)
        elif pending or equals:
            expanded.append(f"{flag}=" * bool(equals) + _expand_value(option, flag, value))
            pending = ""
        else:
            expanded.append(arg)
            pending = flag
    return expanded


def _expand_value(option: ClassOption, flag: str, value: str) -> str:
    """Return the replacement of a value; a YAML file and ``null`` are left to the loader."""
    if value.endswith((".yaml", ".yml", ".json")) or value.startswith("-") or value == "null":
        return value
    if flag.endswith(".help"):
        return class_path(option.known, value)
    spec = _expand_spec(option, read_value(flag.removeprefix("--"), value) if value.startswith("{") else value)
    return spec if isinstance(spec, str) else yaml_line(spec)


def _expand_spec(option: ClassOption, spec: Any) -> Any:
    """Return a name, or a mapping with a ``class_path``, as a mapping with import path and all options."""
    if isinstance(spec, str) and option.bare:
        if option.other_names and "." not in class_path(option.known, spec):
            return spec
        spec = {"class_path": spec}
    if not isinstance(spec, dict) or not isinstance(spec.get("class_path"), str):
        return spec
    path = class_path(option.known, spec["class_path"])
    options = spec.get("init_args") or {}
    if not isinstance(options, dict):
        raise UserError(f"init_args: expected a mapping of options for {spec['class_path']!r}, got {options!r}")
    defaults = _defaults(path, option.num_positional)
    return {**spec, "class_path": path, "init_args": {**defaults, **current_options(path, options)}}


@cache
def _defaults(path: str, num_positional: int) -> Mapping[str, Any]:
    """Return the defaults of a class's options, as the parser sees them; none if there is no such class."""
    if denied_import(path):
        return {}
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
        parser = ArgumentParser(exit_on_error=False)
        skip: set[str | int] = {num_positional} if num_positional else set()
        parser.add_class_arguments(cls, "options", fail_untyped=False, skip=skip)
        values = parser.get_defaults().as_dict().get("options") or {}
    except (ImportError, AttributeError, ValueError):
        return {}
    required = {key for key, value in inspect.signature(cls).parameters.items() if value.default is value.empty}
    return {
        key: json.loads(json.dumps(value)) for key, value in values.items() if key not in required and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    """Return whether a default can be written as YAML; one that cannot is left to the parser."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _expand_yaml(value: Any) -> Any:
    """Return a value read from YAML with current import paths, without its base, and with names of classes expanded."""
    value = current_paths(without_base(value))
    for (section, name), option in CLASS_OPTIONS.items():
        for keys in ((), (section,), (section, "init_args")):
            parent = reduce(lambda node, key: node.get(key) if isinstance(node, dict) else None, keys, value)
            if isinstance(parent, dict) and name in parent:
                parent[name] = _expand_spec(option, parent[name])
    return value


register_loader(PARSER_MODE, _expand_yaml)
