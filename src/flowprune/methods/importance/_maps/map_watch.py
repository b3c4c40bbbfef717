"""Look at feature maps while a forward makes them.

Where a map is made is known from the traced pass by the number of its operation. A forward over another batch may run a
copy more or less (a view of one image is laid out in memory like its copy), and one with gradients runs copies of autograd's
own. So an operation is recognised by what does not change: it is the k-th call of its operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flowprune.engine.tracing import Graph, model_of
from flowprune.engine.tracing.recorder import spelled_out_attention
from flowprune.engine.tracing.shadow import call_model, own_buffer, shadow
from flowprune.errors import ModelError

Position = tuple[int, int]
"""(operation index in the traced pass, which of its outputs)."""

See = Callable[[Position, torch.Tensor], None]
"""Called with every wanted map as it is made; a later operator may overwrite it in place."""


class MapWatch(TorchDispatchMode):
    """Calls ``see`` with what the operations at ``positions`` of ``graph`` return; ``between`` before every operator."""

    def __init__(
        self, graph: Graph, positions: Collection[Position], see: See, between: Callable[[], None] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        outputs: dict[int, list[int]] = {}
        for index, output in positions:
            outputs.setdefault(index, []).append(output)
        counts: Counter[Any] = Counter()
        self._wanted: dict[tuple[Any, int], list[Position]] = {}
        for operation in graph.operations:
            packet = operation.function.overloadpacket
            if operation.index in outputs:
                self._wanted[packet, counts[packet]] = [(operation.index, o) for o in outputs[operation.index]]
            counts[packet] += 1
        self._expected = {packet: counts[packet] for packet, _ in self._wanted}
        self._calls: Counter[Any] = Counter()
        self._see = see
        self._between = between

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._between is not None:
            self._between()
        result = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        if packet in self._expected:
            for position in self._wanted.get((packet, self._calls[packet]), ()):
                self._see(position, result[position[1]] if isinstance(result, (tuple, list)) else result)
            self._calls[packet] += 1
        return result

    def check(self) -> None:
        """Raise a ``ModelError`` if the forward did not run the operators of the traced pass."""
        for packet, expected in self._expected.items():
            if self._calls[packet] != expected:
                raise ModelError(
                    f"on the calibration data the forward runs {packet} {self._calls[packet]} times, on the example inputs "
                    f"{expected} times, so its feature maps cannot be told apart; pass example inputs like the data, or "
                    "choose an importance that needs no data"
                )


def evaluation_shadow(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode: the model's own modes and hooks stay untouched.

    Its parameters are the model's own; buffers are copies, so that a forward which writes to them writes to its own.
    """
    return shadow(model_of(model), own_buffer).eval()


def watch_maps(twin: nn.Module, graph: Graph, inputs: Any, positions: Collection[Position], see: See) -> None:
    """Run an ``evaluation_shadow`` once, without gradients, and show ``see`` the maps at ``positions``.

    Nothing is copied: what ``see`` wants to keep it must copy.

    Raises:
        ModelError: the forward does not run the operators of ``graph``.
    """
    watch = MapWatch(graph, positions, see)
    with spelled_out_attention(), torch.no_grad(), watch:
        call_model(twin, inputs)
    watch.check()


def same_output(graph: Graph, position: Position, other: Graph) -> int:
    """Number of the value in ``other``, another pass of the same forward, that ``position`` of ``graph`` makes there.

    Raises:
        ModelError: the other pass has no such operation.
    """
    packet = graph.operations[position[0]].function.overloadpacket
    rank = sum(operation.function.overloadpacket is packet for operation in graph.operations[: position[0]])
    alike = [operation for operation in other.operations if operation.function.overloadpacket is packet]
    number = alike[rank].outputs[position[1]] if rank < len(alike) else None
    if number is None:
        raise ModelError(
            f"on the calibration data the forward runs {packet} {len(alike)} times, fewer than on the example inputs; "
            "pass example inputs like the data"
        )
    return number
