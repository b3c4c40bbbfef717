"""Operators that return as much as the values ask for: the boxes of a detector, the entries under a mask, a number.

Behind them, sizes and numbers of two passes may differ without anything being wrong.
"""

from __future__ import annotations

import torch

from flowprune.engine.tracing.graph import Graph, Operation, Reference

_COUNTING = frozenset(
    {
        *("aten.nonzero", "aten.masked_select", "aten._unique2", "aten.unique_dim"),
        *("aten.unique_consecutive", "aten._local_scalar_dense", "torchvision.nms"),
    }
)


def decides_by_data(operation: Operation, graph: Graph) -> bool:
    """Whether values, not only sizes, say what the operator returns: how many, or which number."""
    if operation.name in _COUNTING:
        return True
    if operation.name == "aten.index":
        return any(
            isinstance(chosen, Reference) and graph.values[chosen.value].dtype in (torch.bool, torch.uint8)
            for chosen in operation.argument("indices") or ()
        )
    return False


def hands_out_numbers(operation: Operation, graph: Graph) -> bool:
    """Whether the values of tensors decide a Python number, or a size, that code goes on with."""
    if decides_by_data(operation, graph):
        return True
    returns = operation.function._schema.returns
    return bool(operation.reads) and any("Tensor" not in str(returned.type) for returned in returns)
