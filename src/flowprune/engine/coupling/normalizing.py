"""Normalisations that are written out by hand: a statistic over the channels that only scales or centres these same channels.

``x / sqrt(mean(x ** 2, channels) + eps)`` means over fewer channels what a layer norm of that width means: the statistic of those
that are there. A mean that goes anywhere else (a gate, a convolution over it) is a feature of its own, and its channels stay.
"""

from __future__ import annotations

from flowprune.engine.tracing import Graph, Operation, Reference

STATISTICS = ("aten.mean", "aten.var", "aten.std", "aten.linalg_vector_norm")
_SHIFTS_AND_POWERS = frozenset(
    f"aten.{name}"
    for name in ("add", "mul", "clamp", "clamp_min", "sqrt", "pow", "reciprocal", "rsqrt", "expand", "_to_copy")
)
_INVERSES = ("aten.rsqrt", "aten.reciprocal")
_BY_ITSELF = frozenset(
    f"aten.{name}" for name in ("sub", "div", "mul", "pow", "square", "abs", "neg", "_to_copy", "clone", "detach")
)
_STEPS = 6


def only_normalizes(operation: Operation, graph: Graph) -> bool:
    """Whether all that becomes of a statistic is to be taken from, or to divide, the tensor it is of.

    Args:
        operation: the reduction, which keeps the reduced dimension.
        graph: its pass.
    """
    if operation.name not in STATISTICS or not operation.argument("keepdim", False):
        return False
    source: Reference = operation.argument("self")
    of = _origins(source.value, graph)
    waiting = [(value, False, _STEPS) for value in operation.outputs if value is not None]
    while waiting:
        value, inverted, steps = waiting.pop()
        readers = graph.consumers().get(value, [])
        if not readers or value in graph.outputs or not steps:
            return False
        for reader in readers:
            name = reader.name.removesuffix("_")  # in place, as torch's own RMS norm adds its epsilon
            partner = _partner(reader, value)
            if partner is not None:
                centres = reader.name == "aten.sub" and value in operation.outputs
                scales = reader.name == ("aten.mul" if inverted else "aten.div")
                first = reader.name == "aten.mul" or reader.arguments[0] == Reference(partner)
                same = graph.values[partner].shape == graph.values[source.value].shape and of & _origins(partner, graph)
                if not (first and same and (centres or scales)):
                    return False
                continue
            power = reader.argument("exponent")
            turned = name in _INVERSES or (isinstance(power, (int, float)) and power < 0)
            if name not in _SHIFTS_AND_POWERS or (turned and inverted):
                return False
            waiting += [(made, inverted or turned, steps - 1) for made in reader.outputs if made is not None]
    return True


def _partner(operation: Operation, value: int) -> int | None:
    """The other tensor of an operator of two."""
    others = [tensor for tensor in operation.reads if tensor != value]
    return others[0] if len(others) == 1 else None


def _origins(value: int, graph: Graph) -> set[int]:
    """The tensors of the same shape that a tensor was computed from, place by place; itself among them."""
    found, waiting = {value}, [(value, _STEPS)]
    while waiting:
        current, steps = waiting.pop()
        maker = graph.producers().get(current)
        if maker is None or maker.name not in _BY_ITSELF or not steps:
            continue
        for read in maker.reads:
            if read not in found and graph.values[read].shape == graph.values[value].shape:
                found.add(read)
                waiting.append((read, steps - 1))
    return found
