"""What the user wants left alone: layers (``ignore=``) and single dimensions (``freeze=``), by module, name or pattern."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from flowprune.engine.allocation.by_layer import covers
from flowprune.engine.coupling.notes import Freeze, Notes
from flowprune.engine.tracing import Graph
from flowprune.errors import ModelError, hint

Ignored = str | nn.Module | Collection[str | nn.Module]
"""Modules, dotted names or patterns; one, or several."""
Frozen = Mapping[str | nn.Module, int | Collection[int]]
"""Tensors by name or pattern, or all tensors of a module -> the dimensions that stay."""

IGNORED = "ignored, as asked"


@dataclass(frozen=True)
class Exemptions:
    """What stays because the user says so.

    Attributes:
        freezes: the channels, and why.
        tensors: parameters and buffers whose values stay, too.
        modules: paths of modules whose attributes stay.
    """

    freezes: tuple[Freeze, ...] = ()
    tensors: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()


def exemptions(model: nn.Module, graph: Graph, notes: Notes, ignore: Ignored, freeze: Frozen) -> Exemptions:
    """Find what ``ignore`` and ``freeze`` name.

    Args:
        model: the traced model.
        graph: a pass of it; it knows the tensors and their shapes.
        notes: the labels of every dimension.
        ignore: modules, dotted names or patterns; every dimension of their tensors stays, and every value.
        freeze: dimensions that stay, by dotted name or pattern of tensors or modules (dimension 0 of a weight makes the channels,
            dimension 1 reads them).

    Raises:
        ModelError: for an entry that matches nothing, or a dimension that none of the tensors has.
    """
    tensors: set[str] = set()
    modules: set[str] = set()
    freezes: list[Freeze] = []
    for entry in (ignore,) if isinstance(ignore, (str, nn.Module)) else ignore:
        pattern = _pattern(model, entry)
        inside = {path for path, _ in model.named_modules(remove_duplicate=False) if path and covers(pattern, path)}
        tensors |= _matching(model, graph, entry, pattern, "ignore", may_be_empty=bool(inside))
        modules |= inside
    for name in sorted(tensors):
        freezes += [Freeze(slot.labels, IGNORED) for slot in notes.slots if slot.name == name]
    if not isinstance(freeze, Mapping):
        raise ModelError(f'freeze={freeze!r} is not a mapping; write it like freeze={{"layer1.0.conv1.weight": [0]}}')
    ranks = {name: len(graph.values[value].shape) for value, name in graph.parameters.items()}
    for entry, given in freeze.items():
        wanted = _dimensions(entry, given)
        found = sorted(_matching(model, graph, entry, _pattern(model, entry), "freeze"))
        for dimension in wanted:
            having = [name for name in found if -ranks[name] <= dimension < ranks[name]]
            if not having:
                raise ModelError(
                    f"freeze={{{_shown(entry)}: {list(wanted)}}}: {found[0]} has {ranks[found[0]]} dimensions, "
                    f"so there is no dimension {dimension}"
                )
            slots = [notes.slot_of.get((name, dimension % ranks[name])) for name in having]
            freezes += [Freeze(slot.labels, "frozen, as asked") for slot in slots if slot is not None]
    return Exemptions(tuple(freezes), frozenset(tensors), frozenset(modules))


def not_ignored(names: Iterable[str], model: nn.Module, ignore: Ignored) -> list[str]:
    """Those of the names of tensors that no entry of ``ignore`` covers.

    Raises:
        ModelError: for an entry that covers none of them.
    """
    left = known = list(names)
    for entry in (ignore,) if isinstance(ignore, (str, nn.Module)) else ignore:
        pattern = _pattern(model, entry)
        covered = {name for name in known if covers(pattern, name)}
        if not covered:
            near = hint(pattern or "", known)
            raise ModelError(
                f"ignore={_shown(entry)} matches none of the weights; give a module, its dotted name or a pattern{near}"
            )
        left = [name for name in left if name not in covered]
    return left


def _dimensions(entry: Any, given: Any) -> tuple[int, ...]:
    wanted = (given,) if isinstance(given, int) else tuple(given) if isinstance(given, Iterable) else ()
    if not wanted or any(isinstance(d, bool) or not isinstance(d, int) for d in wanted):
        raise ModelError(f"freeze={{{_shown(entry)}: {given!r}}}: give the dimensions that stay, like [0]")
    return wanted


def _pattern(model: nn.Module, entry: Any) -> str | None:
    """The dotted name or pattern an entry stands for; None where it is nothing of this model's."""
    if isinstance(entry, nn.Module):
        return next((path for path, module in model.named_modules() if module is entry and path), None)
    return entry if isinstance(entry, str) and entry else None


def _matching(
    model: nn.Module, graph: Graph, entry: Any, pattern: str | None, option: str, may_be_empty: bool = False
) -> set[str]:
    """The tensors an entry covers, each by the name the graph knows it by."""
    found = {known for name, known in graph.aliases.items() if covers(pattern, name)}
    if not found and not may_be_empty:
        names = [*graph.aliases, *(path for path, _ in model.named_modules() if path)]
        raise ModelError(
            f"{option}={_shown(entry)} matches no parameter of {type(model).__name__}; give a module, its dotted name or a "
            f"pattern{hint(pattern or '', names)}"
        )
    return found


def _shown(entry: Any) -> str:
    return f"this {type(entry).__name__}" if isinstance(entry, nn.Module) else repr(entry)
