"""Classes by name wherever the parser wants one: ``on_policy`` or ``OnPolicyNoise``, ``MuonAdamW``, ``LinearLR``.

The parser knows classes by their import paths. Names become import paths before it sees them: in the arguments here,
and in YAML by a loader of our own (``jsonargparse.set_loader``). Naming a class also means its own defaults: without
them, options of the class configured before would live on in the new one wherever it has an option of that name.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from importlib import import_module
from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import dmaxlit.training.lr_schedules
import dmaxlit.training.muon  # noqa: F401  (from here on one of the optimisers there are)
from dmaxlit.cli.bases import without_base
from dmaxlit.errors import UserError
from dmaxlit.noise import NOISE
from dmaxlit.registry import Registry
from dmaxlit.tasks import TASKS

__all__ = ["CLASS_OPTIONS", "PARSER_MODE", "ClassOption", "class_path", "with_class_paths"]

PARSER_MODE = "dmaxlit"


@dataclass(frozen=True)
class ClassOption:
    """A setting that holds a class with options.

    Args:
        known: The classes: a registry, or a base class whose subclasses are meant.
        given: Leading arguments of the constructor that are no options, because the module gives them.
        bare: Whether a name alone means the class. A task's does not: its options stand beside it.
    """

    known: Registry[Any] | type[Any]
    given: int = 0
    bare: bool = True


CLASS_OPTIONS: dict[tuple[str, str], ClassOption] = {
    ("model", "noise"): ClassOption(NOISE),
    ("model", "optimizer"): ClassOption(Optimizer, given=1),
    ("model", "lr_scheduler"): ClassOption(LRScheduler, given=1),
    ("data", "task"): ClassOption(TASKS, bare=False),
}


def class_path(known: Registry[Any] | type[Any], name: str) -> str:
    """Import path of a class given by registered name, class name or import path.

    Args:
        known: A registry, or a base class.
        name: The name. One that no subclass of a base class has is returned as it is, for the parser to refuse.

    Raises:
        UserError: If a registry has no such class.
    """
    if isinstance(known, Registry):
        named = [cls for cls in map(known.get, known) if cls.__name__ == name]
        cls: type[Any] | None = named[0] if named else known.get(name)
    elif name == ReduceLROnPlateau.__name__:
        cls = ReduceLROnPlateau  # Lightning's, which can say what it monitors; torch has one of that name too
    else:
        cls = next((cls for cls in _subclasses(known) if cls.__name__ == name), None)
    return name if cls is None else f"{cls.__module__}.{cls.__qualname__}"


def with_class_paths(args: Sequence[str], slots: Mapping[tuple[str, str], ClassOption]) -> list[str]:
    """The arguments with names of classes replaced by import paths and defaults.

    Args:
        args: Command-line arguments.
        slots: Settings that hold classes. Of each, ``--a.b NAME``, ``--a.b=NAME`` and ``--a.b.help NAME`` are seen.
    """
    flags = {f"--{'.'.join(path)}": slot for path, slot in slots.items() if slot.bare}
    out: list[str] = []
    waiting = ""
    for arg in args:
        flag, equals, value = (waiting, "", arg) if waiting else arg.partition("=")
        slot = flags.get(flag.removesuffix(".help"))
        if slot is None:
            out.append(arg)
        elif waiting or equals:
            out.append(f"{flag}=" * bool(equals) + _value(slot, value, flag.endswith(".help")))
            waiting = ""
        else:
            out.append(arg)
            waiting = flag
    return out


def _value(slot: ClassOption, value: str, is_help: bool) -> str:
    """What stands for a value; a YAML file and ``null`` are left to the loader."""
    if value.endswith((".yaml", ".yml", ".json")) or value.startswith("-") or value == "null":
        return value
    if is_help:
        return class_path(slot.known, value)
    spec = _spec(slot, yaml.safe_load(value) if value.startswith("{") else value)
    return str(yaml.safe_dump(spec, default_flow_style=True, width=10**6, sort_keys=False)).strip()


def _spec(slot: ClassOption, spec: Any) -> Any:
    """A name, or a mapping with a ``class_path``, as a mapping with import path and all options."""
    if isinstance(spec, str) and slot.bare:
        spec = {"class_path": spec}
    if not isinstance(spec, dict) or not isinstance(spec.get("class_path"), str):
        return spec
    path = class_path(slot.known, spec["class_path"])
    options = spec.get("init_args") or {}
    if not isinstance(options, dict):
        raise UserError(f"init_args: expected a mapping of options for {spec['class_path']!r}, got {options!r}")
    return {**spec, "class_path": path, "init_args": {**_defaults(path, slot.given), **options}}


@cache
def _defaults(path: str, given: int) -> Mapping[str, Any]:
    """Defaults of a class's options, as the parser sees them; none if there is no such class."""
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls, "options", fail_untyped=False, skip={given} if given else set())
        values = parser.get_defaults().as_dict().get("options") or {}
    except (ImportError, AttributeError, ValueError):
        return {}
    required = {key for key, value in inspect.signature(cls).parameters.items() if value.default is value.empty}
    return {
        key: json.loads(json.dumps(value)) for key, value in values.items() if key not in required and _plain(value)
    }


def _plain(value: Any) -> bool:
    """Whether a default can be written down; one that cannot is left to the parser."""
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _load(text: str) -> Any:
    value = without_base(get_loader("yaml")(text))
    for (section, name), slot in CLASS_OPTIONS.items():
        for keys in ((), (section,), (section, "init_args")):
            parent = reduce(lambda found, key: found.get(key) if isinstance(found, dict) else None, keys, value)
            if isinstance(parent, dict) and name in parent:
                parent[name] = _spec(slot, parent[name])
    return value


set_loader(PARSER_MODE, _load, exceptions=(yaml.YAMLError,))
