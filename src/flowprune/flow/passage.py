"""P_l, the map that makes one point comparable with the next.

Where the model itself leads from one point to the next without parameters (the option-A shortcut of a residual block, the
max-pooling of a plain network) that very path is replayed, operator by operator. Elsewhere it is strided subsampling and zero
padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from flowprune.flow.residuals import is_activation, is_addition, is_normalization
from flowprune.tracing import Graph, Operation, Reference

Across = Literal["skip", "project"] | None

_PARAMETER_FREE = frozenset(
    f"aten.{name}"
    for name in (
        "slice",
        "constant_pad_nd",
        "max_pool2d_with_indices",
        "max_pool2d",
        "max_pool1d",
        "max_pool3d_with_indices",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "alias",
        "clone",
        "cat",
    )
)


@dataclass(frozen=True)
class Passage:
    """The parameter-free operators that lead from one point towards the next; none where they are the same tensor.

    ``residual`` says that the next point is the end of a residual block and these lead along its shortcut.
    """

    operations: tuple[Operation, ...]
    source: int
    target: int
    residual: bool

    def __call__(self, feature: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C', ...], as the model's own path does it."""
        values = {self.source: feature}
        for operation in self.operations:
            arguments = [_given(argument, values) for argument in operation.arguments]
            keywords = {name: _given(argument, values) for name, argument in operation.keywords.items()}
            result = operation.function(*arguments, **keywords)
            output = operation.outputs[0]
            assert output is not None
            values[output] = result[0] if isinstance(result, (tuple, list)) else result
        return values[self.target]


def _given(argument: Any, values: dict[int, Tensor]) -> Any:
    if isinstance(argument, Reference):
        return values[argument.value]
    if isinstance(argument, tuple):
        return [_given(element, values) for element in argument]
    if isinstance(argument, int) and not isinstance(argument, bool):
        return int(argument)  # the trace marks integers that come from module attributes
    return argument


def find_passage(graph: Graph, source: int, target: int) -> Passage | None:
    """The model's own parameter-free path from the value ``source`` to where the value ``target`` starts to be computed.

    For the end of a residual block that is its shortcut; for a convolution unit what lies before the convolution.
    """
    producers = graph.producers()
    made = producers.get(target)
    while made is not None and (is_activation(made) or is_normalization(made)):
        target = made.arguments[0].value
        made = producers.get(target)
    if made is None:
        return None
    residual = is_addition(made)
    if residual:
        starts = [operand.value for operand in made.arguments[:2]]
    elif made.name == "aten.convolution":
        starts = [made.arguments[0].value]
    else:
        return None
    for start in starts:
        operations = _chain(producers, source, start)
        if operations is not None:
            return Passage(tuple(operations), source, start, residual)
    return None


def _chain(producers: dict[int, Operation], source: int, value: int) -> list[Operation] | None:
    """The operations from ``source`` to ``value`` if each is parameter-free and reads nothing but the one before."""
    found: list[Operation] = []
    while value != source:
        operation = producers.get(value)
        if operation is None or operation.name not in _PARAMETER_FREE or operation.outputs[0] != value:
            return None
        read = set(operation.inputs())
        if len(read) != 1:
            return None
        found.append(operation)
        value = read.pop()
    return found[::-1]


def carried(feature: Tensor, shape: torch.Size, passage: Passage | None, across: Across) -> Tensor | str:
    """``P_l Y_l`` in the shape of the next point, or, in words, why there is no such map.

    Args:
        feature: ``Y_l``, [N, C, ...].
        shape: of ``Y_{l+1}``.
        passage: the model's own parameter-free path, if it has one.
        across: "skip": equal shapes only; "project": all; None: all where the model has a path of its own.
    """
    if feature.shape == shape:
        return feature
    change = f"the shape changes from {_said(feature.shape)} to {_said(shape)}"
    if feature.dim() != len(shape) or feature.shape[0] != shape[0]:
        return f"{change}: a different number of dimensions or images"
    if shape[1] < feature.shape[1]:
        return f"{change}: the target is narrower"
    if across != "skip" and passage is not None and passage.operations:
        moved = passage(feature)
        if moved.shape[0] == shape[0] and moved.shape[1] <= shape[1] and moved.shape[2:] == shape[2:]:
            return _widened(moved, shape)
    strides = [_stride(size, wanted) for size, wanted in zip(feature.shape[2:], shape[2:], strict=True)]
    if None in strides:
        return f"{change}: no integer stride does that"
    if across == "skip":
        return f'{change}; across="project" includes it'
    if across is None:
        return f'{change} and the model has no parameter-free path there; across="project" includes it'
    every = (slice(None), slice(None), *(slice(None, None, stride) for stride in cast(list[int], strides)))
    return _widened(feature[every], shape)


def _widened(feature: Tensor, shape: torch.Size) -> Tensor:
    missing = shape[1] - feature.shape[1]
    return feature if missing == 0 else functional.pad(feature, (0, 0) * (feature.dim() - 2) + (0, missing))


def _stride(size: int, wanted: int) -> int | None:
    """The stride s for which ``x[::s]`` of ``size`` elements has ``wanted``; None if there is none or the map grows."""
    if wanted < 1 or wanted > size:
        return None
    stride = max(1, round(size / wanted))
    return stride if -(-size // stride) == wanted else None


def _said(shape: torch.Size) -> str:
    return "x".join(str(size) for size in shape[1:])
