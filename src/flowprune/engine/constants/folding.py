"""Where the constant of a dead filter goes when the filter leaves: into the bias, or the running mean, behind whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowprune.engine.allocation import Fold
from flowprune.engine.constants.arrivals import Arrival, read_by
from flowprune.engine.constants.known_constants import KnownConstants
from flowprune.engine.coupling import Analysis, Coupling
from flowprune.engine.coupling.roles import layer_of
from flowprune.engine.tracing import Graph, Operation, Reference
from flowprune.engine.tracing.operator_kinds import is_batch_norm, is_convolution

ZERO = 1e-12


@dataclass
class Folding:
    """What became of the constants of removed channels.

    Attributes:
        folds: one entry a consumer and target.
        shifts: tensor name -> what is added to it.
        unfoldable: components whose constant is not zero and has nowhere to go, would change the consumer's output by more than
            the tolerance, or is mixed with other channels by something else than weights.
        varying: components that reach a consumer as something else than a constant: they are no dead channels.
        unread: components that are not zero where a layer would read them, which has no weights for them.
    """

    folds: list[Fold] = field(default_factory=list)
    shifts: dict[str, Tensor] = field(default_factory=dict)
    unfoldable: set[int] = field(default_factory=set)
    varying: set[int] = field(default_factory=set)
    unread: set[int] = field(default_factory=set)


def fold_constants(
    constants: KnownConstants,
    evaluation: Analysis,
    coupling: Coupling,
    removed: NDArray[np.bool_],
    tolerance: float,
    untouchable: Collection[str] = (),
) -> Folding:
    """Find where the constants of removed dead channels go.

    Args:
        constants: the dense model's.
        evaluation: its evaluation pass.
        coupling: its groups.
        removed: [labels]: which components leave.
        tolerance: largest change at any position of a consumer's output, in standard deviations of that output where a batch norm
            follows, else absolute, that a fold may make.
        untouchable: tensors that keep their values, and so take no constant.
    """
    result = Folding()
    for index, found in constants.arrivals.items():
        reader = _Reader(evaluation.graph.operations[index], found, evaluation, coupling, removed)
        if len(reader.indices):
            reader.fold(constants.tensors, tolerance, untouchable, result)
    alive = np.zeros_like(removed)
    alive[list(result.unread)] = True
    for mixture in constants.mixtures.values():
        result.unfoldable.update(mixture.mixed(coupling.roots, removed).tolist())
        if result.unread:
            result.unfoldable.update(mixture.touched(coupling.roots, alive).tolist())
    return result


class _Reader:
    """A layer that reads removed channels: which, by component, and where their constants can go."""

    def __init__(
        self,
        operation: Operation,
        arrival: Arrival,
        evaluation: Analysis,
        coupling: Coupling,
        removed: NDArray[np.bool_],
    ) -> None:
        self.operation = operation
        self.arrival = arrival
        self.graph: Graph = evaluation.graph
        self.layer = layer_of(operation, self.graph)
        self.is_convolution = is_convolution(operation)
        self.read, weight = read_by(operation)
        self.dimension = (0 if operation.argument("transposed", False) else 1) if self.is_convolution else 0
        self.groups = int(operation.argument("groups", 1)) if self.is_convolution else 1
        self.plain = not self.is_convolution or (self.groups == 1 and self.dimension == 1)
        block = next((b for b in evaluation.layouts.get(weight.value, ()) if b.dimensions == (self.dimension,)), None)
        roots = coupling.roots[block.labels] if block is not None else np.empty(0, dtype=np.int64)
        if self.dimension == 1:  # a column of the weight reads one channel of every group
            roots = np.tile(roots, self.groups)
        self.indices = np.flatnonzero(removed[roots]) if len(roots) else np.empty(0, dtype=np.int64)
        self.roots = roots[self.indices] if len(roots) else roots

    def fold(
        self, tensors: Mapping[str, Tensor], tolerance: float, untouchable: Collection[str], result: Folding
    ) -> None:
        """Add the removed channels' constants to the layer's bias, or take them from the next batch norm's running mean."""
        channels = torch.from_numpy(self.indices)
        known, constant = self.arrival.known[channels], self.arrival.even[channels]
        first, read = self.arrival.values[channels], self._read()[channels]
        result.varying.update(self.roots[(~known & read).numpy()].tolist())
        result.unfoldable.update(self.roots[(known & ~constant & read).numpy()].tolist())
        something = ~constant | (first.abs() > ZERO)
        result.unread.update(self.roots[(something & ~read).numpy()].tolist())
        matters = constant & read & (first.abs() > ZERO)
        if not matters.any():
            return
        target = self._target()
        weight = self.arrival.weight
        closed = target is None or target[0] in untouchable or self._serves_others(target[0])
        if target is None or weight is None or closed or not self.plain:
            result.unfoldable.update(self.roots[matters.numpy()].tolist())
            return
        name, sign, scale = target[0], target[1], target[2](tensors)
        values, picked = first[matters], channels[matters]
        responses = [self._response(weight, picked[i : i + 1], values[i : i + 1]) for i in range(len(picked))]
        deviations = [float(((r - r.mean(dim=1, keepdim=True)).abs() / scale[:, None]).max()) for r in responses]
        allowed = [i for i, deviation in enumerate(deviations) if deviation <= max(tolerance, ZERO)]
        refused = [i for i in range(len(responses)) if i not in set(allowed)]
        result.unfoldable.update(self.roots[matters.numpy()][refused].tolist())
        if not allowed:
            return
        joint = torch.stack([responses[i] for i in allowed]).sum(dim=0)  # [filters, positions]
        shift = joint.mean(dim=1)
        change = float(((joint - shift[:, None]).abs() / scale[:, None]).max())
        result.shifts[name] = result.shifts.get(name, torch.zeros_like(shift)) + sign * shift
        result.folds.append(Fold(self.layer, name, len(allowed), change <= 1e-9, change if change > 1e-9 else 0.0))

    def _read(self) -> Tensor:
        """[channels]: whether the layer has a weight that is not zero for what it reads; True where its weight is not known."""
        weight = self.arrival.weight
        if weight is None:
            return torch.ones(len(self.arrival.known), dtype=torch.bool)
        read = (weight.movedim(self.dimension, 0).flatten(1) != 0).any(dim=1).cpu()
        return read.repeat(self.groups) if self.dimension == 1 else read

    def _response(self, weight: Tensor, channel: Tensor, value: Tensor) -> Tensor:
        """What one constant channel adds to the layer's output: [filters, positions], float64."""
        shape = self.graph.values[self.read.value].shape[2:]
        column = weight.index_select(1 if self.is_convolution else 0, channel.to(weight.device)).double()
        value = value.to(column)
        if not self.is_convolution:
            return (value @ column).reshape(-1, 1)
        # One group reads the channel alone: the other columns of the weight would meet zeros.
        lone = value.reshape(1, 1, *[1] * len(shape)).expand(1, 1, *shape)
        settings = (self.operation.argument(name) for name in _SETTINGS)
        output: Tensor = torch.ops.aten.convolution(lone, column, None, *settings)
        return output.reshape(output.shape[1], -1)

    def _target(self) -> tuple[str, int, Callable[[Mapping[str, Tensor]], Tensor]] | None:
        """The tensor that can take a constant of this layer's output, the sign, and the output's scale."""
        value = self.operation.outputs[0]
        assert value is not None
        width = self.graph.values[value].shape[1]
        readers = self.graph.consumers().get(value, [])
        norm = readers[0] if len(readers) == 1 and is_batch_norm(readers[0]) else None
        if norm is not None and norm.argument("training", False):
            norm = None  # by the batch's statistics it takes a shift of its running mean for nothing
        mean = norm.argument("running_mean") if norm is not None else None
        variance = norm.argument("running_var") if norm is not None else None

        def scale(tensors: Mapping[str, Tensor]) -> Tensor:
            if isinstance(variance, Reference) and variance.value in self.graph.parameters:
                held = tensors[self.graph.parameters[variance.value]].detach().double()
                return torch.sqrt(held.clamp_min(ZERO))
            return torch.ones(width, dtype=torch.float64)

        bias = self.operation.argument("bias") if self.is_convolution else None
        if self.operation.name == "aten.addmm":
            bias = self.operation.argument("self")
        if isinstance(bias, Reference) and bias.value in self.graph.parameters:
            return self.graph.parameters[bias.value], 1, scale
        if isinstance(mean, Reference) and mean.value in self.graph.parameters:
            return self.graph.parameters[mean.value], -1, scale
        return None

    def _serves_others(self, target: str) -> bool:
        """Whether the tensor that would take the constant is read elsewhere, too, as where a layer is called twice."""
        consumers = self.graph.consumers()
        return any(len(consumers.get(v, [])) > 1 for v, name in self.graph.parameters.items() if name == target)


_SETTINGS = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
