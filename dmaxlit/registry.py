"""A small named registry: the short names by which strategies, decoders and tasks are chosen."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from dmaxlit.errors import UserError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind, by name.

    Other people's packages add theirs through the entry-point group ``dmaxlit.<group>``; those are imported when a
    name is first looked up.

    Args:
        kind: What the classes are, for messages ("noise strategy").
        group: Last part of the entry-point group ("noise").
        base: What a class given by import path must be a subclass of.
        on_demand: Module of each class that is imported, and thereby registered, only when its name is looked up.
    """

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
        """Class decorator that files a class under ``name``.

        Raises:
            ValueError: If another class has that name already.
        """

        def file(cls: type[Any]) -> type[Any]:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                where = f"{known.__module__}.{known.__qualname__}"
                raise ValueError(f"{self.kind} {name!r} is already registered, by {where}")
            self._classes[name] = cls
            return cls

        return file

    def get(self, name: str) -> type[T]:
        """The class filed under ``name``, or at the import path ``name``, such as ``my_file.MyNoise``.

        Raises:
            UserError: If there is none; the message lists the known names, or says why the import failed.
        """
        self._load_entry_points()
        if name in self._on_demand and name not in self._classes:
            import_module(self._on_demand[name])
        if name in self._classes:
            return self._classes[name]
        reason = ""
        if "." in name:
            try:
                return self._imported(name)
            except (ImportError, AttributeError, ValueError, TypeError) as error:
                reason = f" ({error})"
        raise UserError(f"unknown {self.kind} {name!r}{reason}; known: {', '.join(self)}")

    def _imported(self, path: str) -> type[Any]:
        module, _, name = path.rpartition(".")
        cls = getattr(import_module(module), name)
        if not isinstance(cls, type) or not issubclass(cls, self.base or object):
            raise ValueError(f"it is no {'class' if self.base is None else self.base.__name__}")
        return cls

    def name_of(self, cls: type[Any]) -> str | None:
        """The name ``cls`` is filed under, or None."""
        self._load_entry_points()
        return next((name for name, known in self._classes.items() if known is cls), None)

    def summary(self, name: str) -> str:
        """First line of the class's docstring."""
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
            if point.name not in self._classes:
                self.register(point.name)(point.load())
