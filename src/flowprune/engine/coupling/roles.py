"""What each parameter dimension is to the channels in it: where they are made, normalised or consumed."""

from __future__ import annotations

from flowprune.engine.tracing import Graph, Operation, Reference
from flowprune.engine.tracing.operator_kinds import is_convolution, is_normalization, is_product

Roles = dict[tuple[str, int], str]
"""(parameter name, dimension) -> "output", "input" or "normalization"; a dimension not in it is "other"."""


def roles_in(graph: Graph) -> Roles:
    """The roles that the operators of a pass give to parameter dimensions."""
    roles: Roles = {}
    producers = graph.producers()

    def give(argument: object, dimension: int, role: str) -> None:
        if isinstance(argument, Reference) and argument.value in graph.parameters:
            roles.setdefault((graph.parameters[argument.value], dimension), role)

    for operation in graph.operations:
        if is_convolution(operation):
            made = 1 if operation.argument("transposed", False) else 0
            give(operation.argument("weight"), made, "output")
            give(operation.argument("weight"), 1 - made, "input")
            give(operation.argument("bias"), 0, "output")
        elif is_product(operation):
            right: Reference = operation.argument("mat2")
            maker = producers.get(right.value)
            if maker is not None and maker.name == "aten.t":
                give(maker.argument("self"), 0, "output")
                give(maker.argument("self"), 1, "input")
            else:
                give(right, 1, "output")
                give(right, 0, "input")
            if operation.name == "aten.addmm":
                give(operation.argument("self"), 0, "output")
        elif is_normalization(operation):
            for name in ("weight", "bias", "running_mean", "running_var"):
                give(operation.argument(name), 0, "normalization")
    return roles


def layer_of(operation: Operation, graph: Graph) -> str:
    """The dotted path of the layer an operation belongs to: its weight's owner, else the module it runs in."""
    weight = operation.argument("weight") if is_convolution(operation) else operation.argument("mat2")
    if isinstance(weight, Reference):
        name = graph.parameters.get(weight.value)
        if name is None:
            maker = graph.producers().get(weight.value)
            origin = maker.argument("self") if maker is not None else None
            name = graph.parameters.get(origin.value) if isinstance(origin, Reference) else None
        if name is not None:
            return name.rpartition(".")[0] or name
    return operation.module
