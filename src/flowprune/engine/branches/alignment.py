"""Proof that a restructured model runs what the model runs, but for the modules that were changed: both passes, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from flowprune.engine.allocation import BranchChange
from flowprune.engine.tracing import Graph, ModuleCall, Operation, Reference


def departure(dense: Graph, changed: Graph, modules: Collection[str]) -> str | None:
    """Where two passes part outside of the changed modules; None where they do not.

    A changed module counts as one operator: it must be called at the same place, on the same tensors, and what it returns must go
    the same ways. Sizes may differ only in tensors that changed modules have made.

    Args:
        dense, changed: the passes, in the same mode.
        modules: dotted paths of the modules that were changed.
    """
    left, right = _events(dense, modules), _events(changed, modules)
    same = _Correspondence(dense, changed)
    for before, after in zip(left, right, strict=False):
        reason = same.step(before, after)
        if reason is not None:
            return reason
    if len(left) != len(right):
        return "it runs another number of operators"
    outputs = zip(dense.outputs, changed.outputs, strict=False)
    if len(dense.outputs) != len(changed.outputs) or not all(same.meets(a, b) for a, b in outputs):
        return "it returns other tensors"
    if any(
        dense.values[a].shape != changed.values[b].shape for a, b in zip(dense.outputs, changed.outputs, strict=True)
    ):
        return "it returns tensors of other sizes"
    return None


def touched_by(change: BranchChange) -> tuple[str, ...]:
    """The modules that a change touches."""
    return (change.module, *change.stand_ins)


def with_operators(change: BranchChange, dense: Graph, changed: Graph) -> BranchChange:
    """The change with the operators that it inserts into the evaluation pass, and deletes."""
    before, after = (_operators_in(graph, touched_by(change)) for graph in (dense, changed))
    inserted, deleted = (tuple(sorted(found.elements())) for found in (after - before, before - after))
    return replace(change, inserted=inserted, deleted=deleted)


def _operators_in(graph: Graph, modules: Collection[str]) -> Counter[str]:
    """How often each operator runs inside of these modules."""
    inside: Counter[str] = Counter()
    for call in graph.calls:
        if call.path in modules:
            inside.update(operation.name for operation in graph.operations[call.first : call.last])
    return inside


def _events(graph: Graph, modules: Collection[str]) -> list[Operation | ModuleCall]:
    """The operations outside of the modules and the modules' calls, in order."""
    calls = [call for call in graph.calls if call.path in modules]
    hidden = {index for call in calls for index in range(call.first, call.last)}
    placed: list[tuple[tuple[int, int, int], Operation | ModuleCall]] = [
        ((call.first, 0, order), call) for order, call in enumerate(calls)
    ]
    placed += [((o.index, 1, 0), o) for o in graph.operations if o.index not in hidden]
    return [event for _, event in sorted(placed, key=lambda entry: entry[0])]


class _Correspondence:
    """Which value of the one pass is which of the other."""

    def __init__(self, dense: Graph, changed: Graph) -> None:
        names = {name: value for value, name in changed.parameters.items()}
        self._of = {value: names[name] for value, name in dense.parameters.items() if name in names}
        self._of.update(zip(dense.inputs, changed.inputs, strict=True))
        self._known = set(self._of.values())

    def meets(self, left: int, right: int) -> bool:
        """Whether both are the same value; two that neither pass has seen before are."""
        if left not in self._of and right not in self._known:
            self._of[left] = right
            self._known.add(right)
        return self._of.get(left) == right

    def made(self, left: int | None, right: int | None) -> bool:
        if left is None or right is None:
            return left is right
        self._of[left] = right
        self._known.add(right)
        return True

    def step(self, before: Operation | ModuleCall, after: Operation | ModuleCall) -> str | None:
        """Take one event of both; returns how they differ."""
        if isinstance(before, ModuleCall) and isinstance(after, ModuleCall):
            same = before.path == after.path and len(before.inputs) == len(after.inputs)
            if not same or not all(map(self.meets, before.inputs, after.inputs)):
                return f"{before.path} is called elsewhere, or on other tensors"
            if len(before.outputs) != len(after.outputs):
                return f"{before.path} returns another number of tensors"
            for left, right in zip(before.outputs, after.outputs, strict=True):
                self.made(left, right)
            return None
        if isinstance(before, Operation) and isinstance(after, Operation):
            place = f"{before.name} in {before.module or 'the model itself'}"
            if before.function is not after.function or before.module != after.module:
                return f"{after.name} runs where {place} ran"
            if not self._alike((before.arguments, before.keywords), (after.arguments, after.keywords)):
                return f"{place} is called otherwise"
            if len(before.outputs) != len(after.outputs) or not all(map(self.made, before.outputs, after.outputs)):
                return f"{place} returns another number of tensors"
            return None
        return "it runs the changed modules at another place"

    def _alike(self, left: Any, right: Any) -> bool:
        if isinstance(left, Reference) or isinstance(right, Reference):
            both = isinstance(left, Reference) and isinstance(right, Reference)
            return both and self.meets(left.value, right.value)
        if isinstance(left, dict):
            return left.keys() == right.keys() and all(self._alike(left[key], right[key]) for key in left)
        if isinstance(left, (list, tuple)):
            same = isinstance(right, (list, tuple)) and len(left) == len(right)
            return same and all(map(self._alike, left, right))
        return bool(left == right)
