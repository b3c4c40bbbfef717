"""Reductions over positions keep the channels; reductions over channels freeze them."""

from __future__ import annotations

from flowprune.engine.coupling.labels import Block
from flowprune.engine.coupling.normalizing import only_normalizes
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.tracing import Operation, Reference


@rule(
    *("aten.mean", "aten.sum", "aten.prod", "aten.amax", "aten.amin", "aten.max", "aten.min", "aten.logsumexp"),
    *("aten.var", "aten.std", "aten.var_mean", "aten.std_mean", "aten.linalg_vector_norm", "aten.norm"),
)
def reduction(operation: Operation, state: Propagation) -> None:
    """Drop the reduced dimensions. A statistic over channels changes when some leave, so those are frozen; one over the width of
    each head holds where heads leave as a whole, and one that only normalises the channels it is of is over those that stay."""
    x: Reference = operation.argument("self")
    dims = operation.argument("dim")
    rank = len(state.shape(x))
    if isinstance(dims, int):
        dims = (dims,)
    gone = {d % rank for d in dims} if dims else set(range(rank))
    keep = bool(operation.argument("keepdim", False))
    places = [d if keep else d - sum(g < d for g in gone) for d in range(rank)]
    layout: list[Block] = []
    normalizes = len(gone) == 1 and only_normalizes(operation, state.graph)
    for block in state.layout(x):
        if normalizes and set(block.dimensions) == gone:
            continue
        left = state.collapse(block, gone, f"{operation.name} is taken over the channels")
        if left is not None:
            layout.append(left.moved(places))
    for position in range(len(operation.outputs)):
        state.set(operation, tuple(layout), position)
