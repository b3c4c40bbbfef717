"""Named methods: one file in one room registers itself, and third parties add theirs through an entry point.

A room makes one ``Registry``. The first look-up imports every module of the room's package (so a new file needs no other edit)
and every entry point of the room's group: ``flowprune.importance`` for ``flowprune.methods.importance``, and so on.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from flowprune.errors import DataError, FlowpruneError, RecipeError, UnknownNameError, one_line

Item = TypeVar("Item")


def from_per_cent(value: object) -> object:
    """``"50%"`` as 0.5, in a mapping, too; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: from_per_cent(one) for key, one in value.items()}
    if isinstance(value, str) and (number := re.fullmatch(r"\s*([-+]?[0-9.]+)\s*%\s*", value)):
        with suppress(ValueError):
            return float(number[1]) / 100
    return value


def names_written_in(package: str) -> list[str]:
    """The names that the files of a package register, and those of its entry points, read without importing one of them.

    Args:
        package: a room, such as "flowprune.methods.importance".
    """
    root = Path(__file__).parents[1]
    found = {point.name for point in entry_points(group=f"flowprune.{package.rpartition('.')[2]}")}
    for file in root.joinpath(*package.split(".")).glob("*.py"):
        found |= set(re.findall(r'^@REGISTRY\.register\("([^"]+)"\)', file.read_text(encoding="utf-8"), re.MULTILINE))
    found |= {file.stem for file in root.joinpath(*package.split(".")).glob("*.yaml")}
    return sorted(found)


def on_first_use(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that imports what it hands out when that is first asked for.

    Args:
        package: its name.
        homes: module -> the names that it has, with blanks between them; a module below the package is its own home.
    """
    own = sys.modules[package].__dict__
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def find(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = importlib.import_module(home_of[name])
        found: object = home if home_of[name] == f"{package}.{name}" else getattr(home, name)
        own[name] = found
        return found

    return find, lambda: sorted({*own, *home_of})


class Registry(Generic[Item]):
    """The methods of one kind, by name.

    Args:
        kind: what an entry is, in words, for messages ("importance").
        package: the package whose modules register themselves on import.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._group = f"flowprune.{package.rpartition('.')[2]}"
        self._items: dict[str, Item] = {}
        self._imported = False
        self._discovered = False

    def register(self, name: str) -> Callable[[Item], Item]:
        """Decorator: enter the decorated function or class under ``name``."""

        def enter(item: Item) -> Item:
            known = self._items.setdefault(name, item)
            if known is not item:
                raise FlowpruneError(f"two {self.kind} methods are named {name!r}: {known!r} and {item!r}; rename one")
            return item

        return enter

    def own(self) -> dict[str, Item]:
        """The methods of the room's own files, by the names of their classes or functions (``L2``); entry points are not loaded."""
        return {item.__name__: item for item in self.own_names().values()}  # type: ignore[attr-defined]

    def own_names(self) -> dict[str, Item]:
        """The same by the names they are registered under; entry points are not loaded."""
        self._import_files()
        prefix = f"{self._package}."
        return {name: item for name, item in self._items.items() if item.__module__.startswith(prefix)}

    def name_of(self, method: object) -> str | None:
        """The name that the class of ``method`` is registered under; None where it is not."""
        return next((name for name in self if self._items[name] is type(method)), None)

    def __getitem__(self, name: str) -> Item:
        self._discover()
        try:
            return self._items[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self._items) from None

    def built(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        batches: Callable[[], Iterable[Any]] | None = None,
        *given: Any,
        **named: Any,
    ) -> Any:
        """What the method called ``name`` makes of options, and of data where it asks for some.

        Args:
            name: it is registered under.
            options: keyword arguments of the method.
            batches: gives training batches, (inputs, labels) pairs, anew at each call; only asked where the method says
                ``needs_data``, whose argument ``batches`` they become.
            *given, **named: arguments that are no options, such as the model of a regularizer.

        Raises:
            UnknownNameError: no method or option has this name.
            DataError: it needs data and none is given.
            RecipeError: an option has a value it cannot take.
        """
        method: Any = self[name]
        parameters = list(inspect.signature(method).parameters.values())
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        known = [p.name for p in parameters[len(given) :] if p.kind in by_name and p.name not in ("batches", *named)]
        numbers = {p.name for p in parameters if _is_number(p)}
        taken = {key: from_per_cent(value) if key in numbers else value for key, value in (options or {}).items()}
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        for option in options or {}:
            if option not in known and not takes_any:
                raise UnknownNameError(f"option of {self.kind} {name}:", option, known)
        data: dict[str, Any] = {}
        if getattr(method, "needs_data", False):
            if batches is None:
                labels = " with labels" if getattr(method, "needs_labels", False) else ""
                raise DataError(f"{self.kind} {name} needs data{labels}: name a data set (--data)")
            data["batches"] = batches()
        try:
            return method(*given, **named, **data, **taken)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"{self.kind} {name} cannot take the options {dict(options or {})}: {one_line(error)}"
            ) from error

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._items))

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        self._import_files()
        for point in entry_points(group=self._group):
            self.register(point.name)(self._loaded(point))

    def _loaded(self, point: EntryPoint) -> Item:
        """What an entry point stands for."""
        item: Item = point.load()
        return item

    def _import_files(self) -> None:
        if self._imported:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._imported = True


def _is_number(parameter: inspect.Parameter) -> bool:
    """Whether an option is a number, and so "50%" one, too; a strength is a text, whose unit says what it is of."""
    kinds = re.sub(r"\[.*\]", "", str(parameter.annotation))
    return "float" in kinds and "str" not in kinds
