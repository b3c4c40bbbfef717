"""P_l, the map that makes one point comparable with the next.

Where the model itself leads from one point to the next without parameters (the option-A shortcut of a residual block, the
max-pooling of a plain network, the permutation before an attention over windows) that very path is replayed, operator by operator.
Where two points are one stream in two layouts it is a reshape. Elsewhere it is strided subsampling and zero padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from flowprune.engine.tracing import Graph, Operation, Reference
from flowprune.engine.tracing.operator_kinds import is_activation, is_addition, is_convolution, normalizes_maps
from flowprune.methods.regularizers.feature_flow.maps.window_pooling import pooled
from flowprune.methods.regularizers.feature_flow.points.views import is_view, viewed

Across = Literal["skip", "project"] | None

_NAMES = """
slice constant_pad_nd max_pool2d_with_indices max_pool2d max_pool1d
max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d alias clone cat permute transpose
"""
_PARAMETER_FREE = frozenset(f"aten.{name}" for name in _NAMES.split())


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
    while made is not None and (is_activation(made) or normalizes_maps(made) or is_view(made)):
        target = made.arguments[0].value
        made = producers.get(target)
    if made is None:
        return None
    residual = is_addition(made)
    if residual:
        starts = [operand.value for operand in made.arguments[:2]]
    elif is_convolution(made):
        starts = [made.arguments[0].value]
    else:
        return None
    for start in starts:
        operations = _chain(producers, source, start)
        if operations is not None:
            return Passage(tuple(operations), source, start, residual)
    return None


def _chain(producers: dict[int, Operation], source: int, value: int) -> list[Operation] | None:
    """The operations from ``source`` to ``value`` if each is parameter-free and reads nothing but the one before.

    Views alone are none at all: the sizes they were traced with are those of one batch.
    """
    if viewed(producers, value) == viewed(producers, source):
        return []
    found: list[Operation] = []
    while value != source:
        operation = producers.get(value)
        if operation is None or operation.name not in _PARAMETER_FREE or operation.outputs[0] != value:
            return None
        read = set(operation.reads)
        if len(read) != 1:
            return None
        found.append(operation)
        value = read.pop()
    return found[::-1]


def projection(
    source: torch.Size, shape: torch.Size, passage: Passage | None, across: Across
) -> Projection | Reshape | str | None:
    """``P_l``; None for the identity, or, in words, why there is no such map.

    Args:
        source: the shape of ``Y_l``, [N, C, ...].
        shape: of ``Y_{l+1}``.
        passage: the model's own parameter-free path, if it has one.
        across: "skip": equal shapes only; "project": all; None: all where the model has a path of its own.
    """
    if source == shape:
        return None
    if is_another_layout(source, shape, passage):
        return Reshape(tuple(shape[1:]))
    moved = None
    if across != "skip" and passage is not None and passage.operations:
        moved = passage(torch.empty(source, device="meta")).shape
        if moved == shape:  # whatever the dimensions mean: a map may become one with its channels last
            return Projection(passage, (), shape[1], _pooling_kernel(passage, source, moved))
    change = f"the shape changes from {_said(source)} to {_said(shape)}"
    if len(source) != len(shape) or source[0] != shape[0]:
        return f"{change}: a different number of dimensions or images"
    if shape[1] < source[1]:
        return f"{change}: the target is narrower"
    if (
        passage is not None
        and moved is not None
        and moved[1] <= shape[1]
        and (moved[0], moved[2:]) == (shape[0], shape[2:])
    ):
        return Projection(passage, (), shape[1], _pooling_kernel(passage, source, moved))
    strides = tuple(_stride(size, wanted) for size, wanted in zip(source[2:], shape[2:], strict=True))
    if None in strides:
        return f"{change}: no integer stride does that"
    if across == "skip":
        return f'{change}; across="project" includes it'
    if across is None:
        return f'{change} and the model has no parameter-free path there; across="project" includes it'
    return Projection(None, cast(tuple[int, ...], strides), shape[1])


@dataclass(frozen=True, eq=False)
class Projection:
    """``P_l`` where it is not the identity: the model's own passage, else every s-th position; then zeros behind the channels."""

    passage: Passage | None
    strides: tuple[int, ...]
    channels: int
    kernel: tuple[int, int] | None = None  # of a passage that is a max-pooling without overlap or border alone

    def __call__(self, feature: Tensor) -> Tensor:
        """[n, C, ...] -> [n, channels, ...], for any number n of images."""
        if self.kernel is not None:
            moved = pooled(feature, self.kernel)
        elif self.passage is not None:
            moved = self.passage(feature)
        else:
            moved = feature[(slice(None), slice(None), *(slice(None, None, stride) for stride in self.strides))]
        missing = self.channels - moved.shape[1]
        return moved if missing == 0 else functional.pad(moved, (0, 0) * (moved.dim() - 2) + (0, missing))


@dataclass(frozen=True)
class Reshape:
    """``P_l`` where two points have the same positions and channels, laid out otherwise."""

    shape: tuple[int, ...]

    def __call__(self, feature: Tensor) -> Tensor:
        """[n, ...] -> [n, *shape], for any number n of images."""
        return feature.reshape(-1, *self.shape)


def is_another_layout(source: torch.Size, target: torch.Size, passage: Passage | None) -> bool:
    """Whether two points are one stream, its positions laid out otherwise, so that their elements correspond one by one."""
    if passage is None or not passage.residual or passage.operations:
        return False
    return source[0] == target[0] and source[-1] == target[-1] and source.numel() == target.numel()


def _pooling_kernel(passage: Passage, source: torch.Size, target: torch.Size) -> tuple[int, int] | None:
    operation = passage.operations[0]
    if len(passage.operations) != 1 or not operation.name.startswith("aten.max_pool2d") or len(source) != 4:
        return None
    sizes = [int(size) for size in operation.argument("kernel_size")]
    kernel = (sizes[0], sizes[-1])
    steps = [int(step) for step in operation.argument("stride", ())] or sizes
    simple = not any(operation.argument("padding", ())) and set(operation.argument("dilation", (1,))) in ({1}, set())
    if not simple or (steps[0], steps[-1]) != kernel:
        return None
    exact = all(kernel[axis] * target[2 + axis] == source[2 + axis] for axis in (0, 1))
    return kernel if exact else None


def _stride(size: int, wanted: int) -> int | None:
    """The stride s for which ``x[::s]`` of ``size`` elements has ``wanted``; None if there is none or the map grows."""
    if wanted < 1 or wanted > size:
        return None
    stride = max(1, round(size / wanted))
    return stride if -(-size // stride) == wanted else None


def _said(shape: torch.Size) -> str:
    return "x".join(str(size) for size in shape[1:])
