"""Registries: the short names of strategies, decoders and tasks; and how one of these is shown."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Generic, TypeVar

from dmaxlit.constructors import constructor_options
from dmaxlit.errors import DMaxWarning, UserError, reason_of

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind, by name.

    Other packages register classes through the entry-point group ``dmaxlit.<group>``; these are imported at the first
    lookup. One that cannot be registered is left out with a :class:`~dmaxlit.errors.DMaxWarning`.

    Args:
        kind: Name of the kind, for messages ("noise strategy").
        group: Last part of the entry-point group ("noise").
        base: Base class required of classes that are looked up by import path.
        on_demand: Names of classes that are registered only when looked up, and the modules that register them.
    """

    #: Whether :meth:`get` imports what an import path names; false for configurations from strangers.
    admits_import_paths: ClassVar[bool] = True

    def __init__(
        self,
        kind: str,
        group: str,
        base: type[Any] | None = None,
        on_demand: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.base = base
        self.group = f"dmaxlit.{group}"
        self._classes: dict[str, type[T]] = {}
        self._on_demand = dict(on_demand or {})
        self._entry_points_loaded = False

    def register(self, name: str) -> Callable[[type[Any]], type[Any]]:
        """Return a class decorator that registers a class under ``name``.

        Raises:
            ValueError: If another class has that name already.
        """

        def add(cls: type[Any]) -> type[Any]:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                path = f"{known.__module__}.{known.__qualname__}"
                raise ValueError(f"{self.kind} {name!r} is already registered, by {path}")
            self._classes[name] = cls
            return cls

        return add

    def get(self, name: str) -> type[T]:
        """Return the class registered as ``name``, or at the import path ``name``, such as ``my_file.MyNoise``.

        Raises:
            UserError: If there is none; the message lists the known names, and the reason if an import failed.
        """
        self._load_entry_points()
        if name in self._on_demand and name not in self._classes:
            import_module(self._on_demand[name])
        if name in self._classes:
            return self._classes[name]
        reason = ""
        if "." in name and not self.admits_import_paths:
            reason = " (import paths are not admitted)"
        elif "." in name:
            try:
                return self._import(name)
            except Exception as error:  # of whatever kind the user's file raises
                reason = f" ({reason_of(error, with_type=True)})"
        raise UserError(f"unknown {self.kind} {name!r}{reason}; known: {', '.join(self)}")

    def _import(self, path: str) -> type[Any]:
        module, _, name = path.rpartition(".")
        cls = getattr(import_module(module), name)
        if not isinstance(cls, type) or not issubclass(cls, self.base or object):
            raise ValueError(f"it is no {'class' if self.base is None else self.base.__name__}")
        return cls

    def name_of(self, cls: type[Any]) -> str | None:
        """Return the name ``cls`` is registered under, or None."""
        self._load_entry_points()
        return next((name for name, known in self._classes.items() if known is cls), None)

    def summary(self, name: str) -> str:
        """Return the first line of the class's docstring."""
        return (self.get(name).__doc__ or "").strip().partition("\n")[0]

    def __contains__(self, name: object) -> bool:
        self._load_entry_points()
        return name in self._classes or name in self._on_demand

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(sorted({*self._classes, *self._on_demand}))

    def _load_entry_points(self) -> None:
        if self._entry_points_loaded:
            return
        self._entry_points_loaded = True
        for point in entry_points(group=self.group):
            reason = self._refusal(point)
            if reason:
                package = f"package {point.dist.name!r}" if point.dist else f"entry point {point.value!r}"
                warnings.warn(
                    f"{package}: its {self.kind} {point.name!r} is left out: {reason}", DMaxWarning, stacklevel=4
                )

    def _refusal(self, point: EntryPoint) -> str:
        """Register the class of an entry point, and return why that was not possible; empty if it was."""
        if point.name in self._on_demand:
            return "dmaxlit has one of that name"
        try:
            cls = point.load()
        except (Exception, SystemExit) as error:  # code of others may raise anything when it is imported
            return reason_of(error, with_type=True)
        if not isinstance(cls, type) or not issubclass(cls, self.base or object):
            return f"expected a {'class' if self.base is None else self.base.__name__}, got {point.value}"
        try:
            self.register(point.name)(cls)
        except ValueError as error:
            return str(error)
        return ""


def class_and_options(value: object, **more: object) -> str:
    """Return ``Class(option=value, ...)`` with those options that are attributes of the same name.

    Options are those of :func:`~dmaxlit.constructors.constructor_options`.

    Args:
        value: The object.
        **more: Options that are no attributes of the same name.
    """
    names = constructor_options(type(value))
    options = {name: vars(value)[name] for name in names if name in vars(value)} | more
    return f"{type(value).__name__}({', '.join(f'{name}={option!r}' for name, option in options.items())})"
