"""What a traced model's dead filters come to wherever their channels are read, worked out once for all cuts that are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from flowprune.engine.constants.arrivals import Arrival, arrival, read_by
from flowprune.engine.constants.filter_constants import with_dead_filters, with_filters_without_weights
from flowprune.engine.constants.interpretation import interpret
from flowprune.engine.constants.knowledge import Knowledge
from flowprune.engine.constants.mixing import Mixture, mixtures, silent_labels
from flowprune.engine.coupling import Analysis
from flowprune.engine.tracing import Operation, tensors_of
from flowprune.engine.tracing.operator_kinds import is_batch_norm, is_layer


@dataclass(frozen=True)
class KnownConstants:
    """The constants of a model.

    Attributes:
        tensors: its parameters and buffers by name.
        arrivals: operation index of a layer's call -> what is known of the channels it reads.
        mixtures: operation index -> the channels that are mixed with others there.
    """

    tensors: Mapping[str, Tensor]
    arrivals: Mapping[int, Arrival]
    mixtures: Mapping[int, Mixture]


def known_constants(
    model: nn.Module, inputs: Any, evaluation: Analysis, dead: Mapping[str, NDArray[np.bool_]]
) -> KnownConstants:
    """Follow what dead filters say through the evaluation pass to every layer that reads it.

    Args:
        model: the dense model.
        inputs: the example inputs of the trace.
        evaluation: its evaluation pass, with labels.
        dead: layer -> which of its filters are dead.
    """
    graph = evaluation.graph
    tensors = tensors_of(model)
    producers = graph.producers()
    arrivals: dict[int, Arrival] = {}
    found = mixtures(evaluation)

    def look(operation: Operation, known: Callable[[int], Knowledge | None], finite: frozenset[int]) -> None:
        if operation.index in found:
            silent = silent_labels(operation, evaluation, known, finite)
            found[operation.index] = replace(found[operation.index], silent=silent)
        if is_layer(operation):  # it weighs the channels it reads, and can take up what a constant one adds
            x, weight = read_by(operation)
            channels = graph.values[x.value].shape[1]
            arrivals[operation.index] = arrival(known(x.value), known(weight.value), channels)

    def told(operation: Operation, known: Knowledge | None) -> Knowledge | None:
        if is_batch_norm(operation):
            return with_dead_filters(operation, known, graph, producers, dead, tensors)
        if is_layer(operation):
            return with_filters_without_weights(operation, known, graph, dead, tensors)
        return known

    interpret(graph, tensors, inputs, look, told)
    return KnownConstants(tensors, arrivals, found)
