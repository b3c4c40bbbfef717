"""Constant channels: what a dead filter still says, and where that constant goes when the filter leaves.

The evaluation pass is run once with every input NaN. Whatever depends on the input becomes NaN; a dead filter is overwritten by its
constant right behind its batch norm, and activations, pooling, concatenation and slicing then carry it on by simply running. What
arrives at a consumer as the same finite number at every position is constant there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_map_only

from flowprune.allocation import Fold
from flowprune.coupling import Analysis, Coupling
from flowprune.coupling.roles import layer_of
from flowprune.coupling.rules import rule_of
from flowprune.coupling.rules.normalization import batch_norm
from flowprune.measuring.filter_layers import tensors_of
from flowprune.tracing import Graph, Operation, Reference, replay

ZERO = 1e-12


@dataclass
class Folding:
    """What became of the constants of removed channels.

    Attributes:
        folds: one entry a consumer and target.
        shifts: tensor name -> what is added to it.
        unfoldable: components whose constant is not zero and has nowhere to go, or would change the consumer's output by more
            than the tolerance.
        varying: components that reach a consumer as something else than a constant: they are no dead channels.
    """

    folds: list[Fold] = field(default_factory=list)
    shifts: dict[str, torch.Tensor] = field(default_factory=dict)
    unfoldable: set[int] = field(default_factory=set)
    varying: set[int] = field(default_factory=set)


def fold_constants(
    model: nn.Module,
    inputs: Any,
    evaluation: Analysis,
    coupling: Coupling,
    removed: NDArray[np.bool_],
    dead: Mapping[str, NDArray[np.bool_]],
    tolerance: float,
    untouchable: Collection[str] = (),
) -> Folding:
    """Find where the constants of removed dead channels go.

    Args:
        model: the dense model.
        inputs: the example inputs.
        evaluation: its evaluation pass.
        coupling: its groups.
        removed: [labels]: which components leave.
        dead: layer -> which of its filters are dead.
        tolerance: largest change at any position of a consumer's output, in standard deviations of that output where a batch norm
            follows, else absolute, that a fold may make.
        untouchable: tensors that keep their values, and so take no constant.
    """
    graph = evaluation.graph
    result = Folding()
    if not any(mask.any() for mask in dead.values()):
        return result
    tensors = tensors_of(model)
    producers, consumers = graph.producers(), graph.consumers()

    def visit(index: int, run: Callable[[], Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        operation = graph.operations[index]
        if operation.name in ("aten.convolution", "aten._convolution", "aten.mm", "aten.addmm"):
            reader = _Reader(operation, graph, evaluation, coupling, removed)
            if len(reader.indices):
                reader.fold(arguments, tensors, producers, consumers, tolerance, untouchable, result)
        returned = run()
        if rule_of(operation) is batch_norm:
            overwrite_dead(operation, graph, producers, dead, tensors, returned[0])
        return _zero_where_a_factor_is(operation, arguments, returned)

    replay(model, nothing_known(inputs), visit, graph)
    return result


def _zero_where_a_factor_is(operation: Operation, arguments: tuple[Any, ...], returned: Any) -> Any:
    """A gate nobody knows makes nothing of a channel that is zero, though NaN times zero is NaN."""
    factors = [factor for factor in arguments[:2] if isinstance(factor, torch.Tensor)]
    if operation.name == "aten.mul" and len(factors) == 2 and returned.is_floating_point():
        return torch.where((factors[0] == 0) | (factors[1] == 0), torch.zeros_like(returned), returned)
    return returned


def nothing_known(inputs: Any) -> Any:
    """Example inputs of nothing but NaN: what comes out finite does not depend on them."""

    def unknown(tensor: torch.Tensor) -> torch.Tensor:
        return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor

    return tree_map_only(torch.Tensor, unknown, inputs)


def constants_behind(
    operation: Operation, graph: Graph, producers: Mapping[int, Operation], tensors: Mapping[str, torch.Tensor]
) -> tuple[str, torch.Tensor] | None:
    """The layer in front of a batch norm, and the constant that comes closest to what each of its filters says.

    A filter whose weights are all zero says ``beta + gamma (bias - running_mean) / sqrt(running_var + eps)``, exactly. One that
    still varies says beta on average, as far as the running statistics are those of the weights.
    """
    maker = producers.get(operation.argument("input").value)
    if maker is None or maker.name not in ("aten.convolution", "aten._convolution", "aten.mm", "aten.addmm"):
        return None

    def tensor(argument: Any) -> torch.Tensor | None:
        name = graph.parameters.get(argument.value) if isinstance(argument, Reference) else None
        return tensors[name].detach() if name is not None else None

    mean, variance = tensor(operation.argument("running_mean")), tensor(operation.argument("running_var"))
    if mean is None or variance is None:
        return None
    gamma, beta = tensor(operation.argument("weight")), tensor(operation.argument("bias"))
    bias = tensor(maker.argument("bias") if "convolution" in maker.name else maker.argument("self"))
    epsilon = operation.argument("eps", operation.argument("epsilon", 1e-5))
    centred = ((0 if bias is None or bias.dim() != 1 else bias) - mean) * _without_weights(maker, graph, mean, tensors)
    constant = (1 if gamma is None else gamma) * centred / torch.sqrt(variance + epsilon)
    return layer_of(maker, graph), constant + (0 if beta is None else beta)


def _without_weights(
    maker: Operation, graph: Graph, like: torch.Tensor, tensors: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """[filters] bool: whether all weights of a convolution's or product's filter are zero; False where they cannot be told."""
    argument = maker.argument("weight") if "convolution" in maker.name else maker.argument("mat2")
    dimension = 1 if "convolution" not in maker.name or maker.argument("transposed", False) else 0
    view = graph.producers().get(argument.value)
    if view is not None and view.name == "aten.t":
        argument, dimension = view.argument("self"), 0
    name = graph.parameters.get(argument.value)
    if name is None or tensors[name].shape[dimension] != len(like):
        return torch.zeros(len(like), dtype=torch.bool, device=like.device)
    return (tensors[name].detach().movedim(dimension, 0).flatten(1) == 0).all(dim=1)


def overwrite_dead(
    operation: Operation,
    graph: Graph,
    producers: Mapping[int, Operation],
    dead: Mapping[str, NDArray[np.bool_]],
    tensors: Mapping[str, torch.Tensor],
    result: torch.Tensor,
) -> None:
    """Put the constants of dead filters into what their batch norm returns."""
    found = constants_behind(operation, graph, producers, tensors)
    if found is None or found[0] not in dead:
        return
    layer, constant = found
    mask = torch.from_numpy(dead[layer]).to(result.device)
    shape = [1, -1] + [1] * (result.dim() - 2)
    result[:, mask] = constant[mask].to(result.dtype).reshape(shape).expand(result[:, mask].shape)


class _Reader:
    """A layer that reads removed channels: which, by component, and where their constants can go."""

    def __init__(
        self, operation: Operation, graph: Graph, evaluation: Analysis, coupling: Coupling, removed: NDArray[np.bool_]
    ) -> None:
        self.operation = operation
        self.graph = graph
        self.layer = layer_of(operation, graph)
        self.is_convolution = "convolution" in operation.name
        weight: Reference = operation.argument("weight" if self.is_convolution else "mat2")
        dimension = (0 if operation.argument("transposed", False) else 1) if self.is_convolution else 0
        self.plain = not self.is_convolution or (operation.argument("groups", 1) == 1 and dimension == 1)
        block = next((b for b in evaluation.layouts.get(weight.value, ()) if b.dimensions == (dimension,)), None)
        roots = coupling.roots[block.labels] if block is not None else np.empty(0, dtype=np.int64)
        self.indices = np.flatnonzero(removed[roots]) if len(roots) else np.empty(0, dtype=np.int64)
        self.roots = roots[self.indices] if len(roots) else roots

    def fold(
        self,
        arguments: tuple[Any, ...],
        tensors: Mapping[str, torch.Tensor],
        producers: Mapping[int, Operation],
        consumers: Mapping[int, list[Operation]],
        tolerance: float,
        untouchable: Collection[str],
        result: Folding,
    ) -> None:
        """Add the removed channels' constants to the layer's bias, or take them from the next batch norm's running mean."""
        x: torch.Tensor = arguments[0] if self.operation.name not in ("aten.addmm",) else arguments[1]
        channels = torch.from_numpy(self.indices)
        seen = x[:1, channels.to(x.device)].double()  # [1, removed, ...positions]
        seen = seen.reshape(len(channels), -1)
        first = seen[:, 0]
        constant = torch.isfinite(seen).all(dim=1) & (seen == first[:, None]).all(dim=1)
        known = torch.isfinite(seen).all(dim=1)
        uneven = known & ~constant
        result.varying.update(self.roots[~known.cpu().numpy()].tolist())
        result.unfoldable.update(self.roots[uneven.cpu().numpy()].tolist())
        matters = constant & (first.abs() > ZERO)
        if not matters.any():
            return
        target = self._target(consumers)
        if target is None or target[0] in untouchable or not self.plain or self._serves_others(target[0], consumers):
            result.unfoldable.update(self.roots[matters.cpu().numpy()].tolist())
            return
        name, sign, scale = target[0], target[1], target[2](tensors)
        values, picked = first[matters], channels[matters.cpu()]
        responses = [self._response(arguments, x, picked[i : i + 1], values[i : i + 1]) for i in range(len(picked))]
        deviations = [float(((r - r.mean(dim=1, keepdim=True)).abs() / scale[:, None]).max()) for r in responses]
        allowed = [i for i, deviation in enumerate(deviations) if deviation <= tolerance]
        refused = [i for i in range(len(responses)) if i not in set(allowed)]
        result.unfoldable.update(self.roots[matters.cpu().numpy()][refused].tolist())
        if not allowed:
            return
        joint = torch.stack([responses[i] for i in allowed]).sum(dim=0)  # [filters, positions]
        shift = joint.mean(dim=1)
        change = float(((joint - shift[:, None]).abs() / scale[:, None]).max())
        result.shifts[name] = result.shifts.get(name, torch.zeros_like(shift)) + sign * shift
        result.folds.append(Fold(self.layer, name, len(allowed), change <= 1e-9, change if change > 1e-9 else 0.0))

    def _response(
        self, arguments: tuple[Any, ...], x: torch.Tensor, channel: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """What one constant channel adds to the layer's output: [filters, positions], float64."""
        lone = torch.zeros(x[:1].shape, dtype=torch.float64, device=x.device)
        lone[:, channel.to(x.device)] = value
        if not self.is_convolution:
            matrix: torch.Tensor = arguments[1] if self.operation.name == "aten.mm" else arguments[2]
            return (lone @ matrix.double()).reshape(-1, 1)
        weight: torch.Tensor = arguments[1]
        output: torch.Tensor = torch.ops.aten.convolution(lone, weight.double(), None, *arguments[3:9])
        return output.reshape(output.shape[1], -1)

    def _target(
        self, consumers: Mapping[int, list[Operation]]
    ) -> tuple[str, int, Callable[[Mapping[str, torch.Tensor]], torch.Tensor]] | None:
        """The tensor that can take a constant of this layer's output, the sign, and the output's scale."""
        width = self._width()
        value = self.operation.outputs[0]
        readers = consumers.get(value, []) if value is not None else []
        norm = readers[0] if len(readers) == 1 and rule_of(readers[0]) is batch_norm else None
        mean = norm.argument("running_mean") if norm is not None else None
        variance = norm.argument("running_var") if norm is not None else None

        def scale(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
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

    def _serves_others(self, target: str, consumers: Mapping[int, list[Operation]]) -> bool:
        """Whether the tensor that would take the constant is read elsewhere, too, as where a layer is called twice."""
        return any(len(consumers.get(v, [])) > 1 for v, name in self.graph.parameters.items() if name == target)

    def _width(self) -> int:
        value = self.operation.outputs[0]
        assert value is not None
        return self.graph.values[value].shape[1]
