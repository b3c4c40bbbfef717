"""Which weights make the channels of a point: the scales of the batch norms it ends in, or the filters where there are none."""

from __future__ import annotations

from flowprune.engine.tracing import Graph, Operation, Reference
from flowprune.engine.tracing.operator_kinds import is_activation, is_addition, is_batch_norm, is_convolution, is_copy
from flowprune.methods.regularizers.feature_flow.points.views import is_view


def makers_at(graph: Graph, value: int) -> tuple[str, ...]:
    """Names of the weights whose first dimension is the channels of this value, last-made last; () where the trace shows none.

    Behind an activation and an addition these are the weights of the batch norms that are added (of a residual block's branch; of
    a projection shortcut, too), or of the convolutions that are added without one.
    """
    producers = graph.producers()
    made = _behind(producers, value, through_activations=True)
    if made is None:
        return ()
    if not is_addition(made):
        ends: list[Operation | None] = [made]
    else:
        ends = [_behind(producers, operand.value, through_activations=False) for operand in made.arguments[:2]]
    found = []
    for end in ends:
        if end is not None and (is_batch_norm(end) or is_convolution(end)):
            weight = end.argument("weight")
            name = graph.parameters.get(weight.value) if isinstance(weight, Reference) else None
            found += [] if name is None else [name]
    return tuple(found)


def _behind(producers: dict[int, Operation], value: int, *, through_activations: bool) -> Operation | None:
    """What made the value, before views and copies of it, and activations."""
    made = producers.get(value)
    while made is not None and made.reads:
        if not (is_view(made) or is_copy(made) or (through_activations and is_activation(made))):
            return made
        made = producers.get(made.reads[0])
    return made
