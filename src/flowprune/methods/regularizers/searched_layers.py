"""Layers whose filters choose a number of bits, and whose choices are one: the engine says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing import FilterLayer, filter_layers
from flowprune.errors import ModelError
from flowprune.methods.regularizers.bit_costs import LayerSize
from flowprune.methods.regularizers.strength.coupled_channels import ChannelClass, channel_classes, coupled_model

FULL_PRECISION = 8
"""What activations count as that no grid is put on."""


@dataclass(frozen=True)
class Choice:
    """Channels that choose, one by one.

    Attributes:
        name: of the coupled group, or of the one layer.
        channels: how many.
        can_leave: whether 0 bits are among what they choose from.
    """

    name: str
    channels: int
    can_leave: bool


@dataclass(frozen=True)
class Part:
    """Filters, or inputs, of a layer that belong to channels of a choice: int64 ``[k]`` both."""

    choice: int
    rows: Tensor
    channels: Tensor


@dataclass(frozen=True)
class SearchedLayer:
    """A convolution or linear layer.

    Attributes:
        name: dotted path.
        weight, bias: the parameters themselves.
        size: what its cost is made of.
        filters: every filter once.
        inputs: those that may leave.
        whole_inputs: how many of a filter's inputs cannot.
    """

    name: str
    weight: nn.Parameter
    bias: nn.Parameter | None
    size: LayerSize
    filters: tuple[Part, ...]
    inputs: tuple[Part, ...]
    whole_inputs: int

    def of_filters(self, of_channels: Sequence[Tensor]) -> Tensor:
        """``[..., filters]`` of what every choice has by channel ``[..., channels]``."""
        parts = [of_channels[part.choice][..., part.channels] for part in self.filters]
        order = torch.cat([part.rows for part in self.filters]).argsort()
        return torch.cat(parts, -1)[..., order]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Weight and bias by name."""
        found = {f"{self.name}.weight": self.weight}
        return found if self.bias is None else {**found, f"{self.name}.bias": self.bias}


def searched_layers(
    model: nn.Module, inputs: Any, method: str
) -> tuple[list[Choice], list[SearchedLayer], dict[str, str]]:
    """The layers of a model whose filters can have numbers of bits of their own.

    Channels of one coupled group make one choice. 0 bits are among what they choose from where they can leave one by one and
    plain layers alone make them; the outputs of the network, what is frozen, and what grouped convolutions share, keep 2 or more.

    Args:
        model: its batch norms folded; it is traced and not touched.
        inputs: example inputs, as ``flowprune.plan`` takes them.
        method: the regularizer's name, for messages.

    Returns:
        The choices, the layers in execution order, and the name of a layer that keeps its floating-point weights -> why.

    Raises:
        RecipeError, ModelError, TraceError: as ``coupled_channels``; ModelError, too, where a batch norm follows one of the layers.
    """
    coupled = coupled_model(model, inputs, method)
    classes, _ = channel_classes(model, coupled, method)
    coupling = coupled.coupling
    members = {coupling.groups[one[0]].name: [coupling.groups[g] for g in one] for one in coupling.classes}
    modules, left = dict(model.named_modules()), {}
    found: dict[str, FilterLayer] = {}
    for layer in filter_layers(model, inputs, coupled.graph):
        reason = _objection(layer, modules)
        if layer.norm is not None:
            raise ModelError(
                f'{method} searches bits of what is run: fold the batch norm behind {layer.name} first, replacement="folded_norms"'
            )
        if reason is None:
            found[layer.name] = layer
        else:
            left[layer.name] = reason
    if not found:
        raise ModelError(f"{method} finds no plain convolution or linear layer in this model")
    choices: list[Choice] = []
    number_of: dict[str, int] = {}
    own = {f"{name}.{tensor}" for name in found for tensor in ("weight", "bias")}
    for one in classes:
        number_of[one.name] = len(choices)
        choices.append(Choice(one.name, one.channels, _can_leave(one, members[one.name], own, modules)))
    outputs: dict[str, list[Part]] = {name: [] for name in found}
    reads: dict[str, list[Part]] = {name: [] for name in found}
    for one in classes:
        for group in members[one.name]:
            for member in group.members:
                layer_name, _, tensor = member.name.rpartition(".")
                if tensor == "weight" and layer_name in found:
                    part = _part(number_of[one.name], np.asarray(member.indices))
                    if member.dimension == 0 and member.role == "output":
                        outputs[layer_name].append(part)
                    elif member.dimension == 1 and member.role == "input" and choices[part.choice].can_leave:
                        reads[layer_name].append(part)
    layers = []
    for name, layer in found.items():
        module = modules[name]
        weight = cast(nn.Parameter, module.weight)
        covered = torch.zeros(len(weight), dtype=torch.bool)
        for part in outputs[name]:
            covered[part.rows] = True
        if not covered.all():
            rest = (~covered).nonzero().flatten()
            choices.append(Choice(name, len(rest), False))
            outputs[name].append(Part(len(choices) - 1, rest, torch.arange(len(rest))))
        grid = getattr(module, "grid", None)
        size = LayerSize(
            weight[0, 0].numel(), _positions(layer, coupled), FULL_PRECISION if grid is None else int(grid.bits)
        )
        whole = weight.shape[1] - sum(len(part.rows) for part in reads[name])
        bias = cast("nn.Parameter | None", module._parameters.get("bias"))
        layers.append(SearchedLayer(name, weight, bias, size, tuple(outputs[name]), tuple(reads[name]), whole))
    return choices, layers, left


def _objection(layer: FilterLayer, modules: dict[str, nn.Module]) -> str | None:
    module = modules.get(layer.name)
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        return "only two-dimensional convolutions and linear layers have filters with bits of their own"
    shared = [path for path, other in modules.items() if other._parameters.get("weight") is module.weight]
    return f"{shared[1]} has the same weight" if len(shared) > 1 else None


def _can_leave(one: ChannelClass, groups: list[CoupledGroup], own: set[str], modules: dict[str, nn.Module]) -> bool:
    """Whether zeros in the searched layers silence the channels, and no grouped convolution shares them out."""
    if any(place.name not in own for place in one.places):
        return False
    for group in groups:
        for member in group.members:
            module = modules.get(member.name.rpartition(".")[0])
            if isinstance(module, nn.Conv2d) and 1 < module.groups < module.in_channels:
                return False
    return True


def _part(choice: int, indices: np.ndarray) -> Part:
    """Indices ``[channels, k]``, flattened with the channel of each."""
    channels = np.repeat(np.arange(len(indices)), indices.shape[1])
    return Part(choice, torch.as_tensor(indices.reshape(-1).astype(np.int64)), torch.as_tensor(channels))


def _positions(layer: FilterLayer, coupled: CoupledModel) -> int:
    """Positions of its outputs, of one image over all calls."""
    total = 0
    for index, output in layer.positions:
        value = coupled.graph.operations[index].outputs[output]
        assert value is not None
        total += int(np.prod(coupled.graph.values[value].shape, dtype=np.int64)) // layer.filters
    return max(1, total // coupled.batch)
