"""Matrix products with a weight: linear layers as they decompose."""

from __future__ import annotations

from flowprune.coupling.labels import Block, block_at
from flowprune.coupling.propagation import Propagation
from flowprune.coupling.rules import rule
from flowprune.tracing import Operation, Reference


@rule("aten.mm", "aten.addmm")
def matrix_product(operation: Operation, state: Propagation) -> None:
    """Join the left factor's columns with the right factor's rows; the result carries the left's rows and the right's columns."""
    added: Reference | None = operation.argument("self") if operation.name == "aten.addmm" else None
    left: Reference = operation.argument("mat1" if added is not None else "self")
    right: Reference = operation.argument("mat2")
    for tensor in (left, right):
        for block in state.layout(tensor):
            if len(block.dimensions) > 1:
                state.freeze(block.labels, "a matrix product mixes a reshaped block")
    columns, rows = _single(state, left, 1), _single(state, right, 0)
    state.join_blocks(columns, rows, "reads the model's input, or channels that are not known")
    across, down = _single(state, right, 1), _single(state, left, 0)
    if added is not None:
        width = state.shape(added)[-1]
        bias = block_at(state.layout(added), state_last(state, added)) if width > 1 else None
        if width > 1:
            across = state.join_blocks(across, bias, "a bias of channels that are not known")
    layout = []
    if down is not None:
        layout.append(Block((0,), down.labels))
    if across is not None:
        layout.append(Block((1,), across.labels))
    state.set(operation, tuple(layout))
    (height, depth), width = state.shape(left), state.shape(right)[1]
    constant, factors = 1, []
    for size, labelled in ((height, down), (depth, rows), (width, _single(state, right, 1))):
        if labelled is None:
            constant *= size
        else:
            factors.append(labelled.labels)
    state.cost(constant, factors)


def state_last(state: Propagation, tensor: Reference) -> int:
    """The last dimension of a tensor."""
    return len(state.shape(tensor)) - 1


def _single(state: Propagation, tensor: Reference, dimension: int) -> Block | None:
    block = block_at(state.layout(tensor), dimension)
    return block if block is not None and len(block.dimensions) == 1 else None
