"""What a regularizer of whole channels acts on: every parameter of a coupled channel that makes it, and none that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing import model_of
from flowprune.errors import ModelError, RecipeError

IN_STEP = "its channels leave in step with those of other widths"
NORMALIZED = "{module} normalises over its channels, so that they could not be silenced one by one"


@dataclass(frozen=True)
class Place:
    """Where the channels of a class sit in a parameter.

    Attributes:
        parameter: the tensor itself.
        name: its dotted name.
        dimension: the one they sit in.
        role: "output", "normalization" or "other", as a coupled group's member has it.
        rows: int64 ``[channels, k]``: where in it.
        groups: of the convolution, if it is the weight of one.
    """

    parameter: nn.Parameter
    name: str
    dimension: int
    role: str
    rows: Tensor
    groups: int

    @property
    def is_filters(self) -> bool:
        """Whether the channels are made here: a weight, no bias."""
        return self.role == "output" and self.parameter.ndim >= 2

    def slices(self, tensor: Tensor) -> Tensor:
        """``[size of the dimension, rest]`` of the parameter or of another tensor of its shape, a view where that is possible."""
        return tensor.movedim(self.dimension, 0).reshape(tensor.shape[self.dimension], -1)

    def along(self, of_channels: Tensor, elsewhere: float) -> Tensor:
        """One number a channel ``[channels]``, spread over the dimension and shaped so that it multiplies the parameter."""
        size = self.parameter.shape[self.dimension]
        spread = torch.full((size,), elsewhere, dtype=self.parameter.dtype, device=self.parameter.device)
        rows = self.rows.to(spread.device)
        spread[rows] = of_channels.to(spread.device, spread.dtype).unsqueeze(1).expand(rows.shape)
        shape = [1] * self.parameter.ndim
        shape[self.dimension] = size
        return spread.view(shape)


@dataclass(frozen=True)
class ChannelClass:
    """Channels that can leave one by one, and all that makes them.

    Attributes:
        name: of the coupled group, its first layer; of several groups that shrink in step, the first one's.
        channels: how many.
        places: the parameters they sit in, but for those that only read them.
        macs, params: what the model loses with one of them, before any other has left.
        added: whether they are a residual stream's, which several layers make by turns.
    """

    name: str
    channels: int
    places: tuple[Place, ...]
    macs: int
    params: int
    added: bool

    def lengths(self) -> Tensor:
        """float64 ``[channels]`` on the CPU: the Euclidean norm of all that makes a channel."""
        squares = torch.zeros(self.channels, dtype=torch.float64)
        for place in self.places:
            rows = place.slices(place.parameter.detach()).double().square().sum(1)
            squares += rows[place.rows.to(rows.device)].sum(1).cpu()
        return squares.sqrt()

    def magnitudes(self) -> Tensor:
        """float64 ``[channels]`` on the CPU: the mean absolute value of a channel's filters, biases left out."""
        total = torch.zeros(self.channels, dtype=torch.float64)
        count = 0
        for place in self.places:
            if place.is_filters:
                rows = place.slices(place.parameter.detach()).double().abs()
                total += rows.sum(1)[place.rows.to(rows.device)].sum(1).cpu()
                count += rows.shape[1] * place.rows.shape[1]
        return total / count

    @torch.no_grad()
    def scale(self, factors: Tensor) -> None:
        """Multiply all that makes a channel with its factor, ``[channels]``, in place. A factor 1 changes no bit."""
        for place in self.places:
            place.parameter.mul_(place.along(factors, 1.0))

    @torch.no_grad()
    def silence(self, chosen: Tensor) -> None:
        """Make zeros of all that makes these channels (int64 numbers), also where it is no number any more."""
        silent = torch.zeros(self.channels).index_fill_(0, chosen, 1.0)
        for place in self.places:
            place.parameter.masked_fill_(place.along(silent, 0.0) > 0, 0.0)

    def filters(self, chosen: Tensor) -> dict[str, Tensor]:
        """Name of every weight that makes the channels -> int64 numbers of those of its filters that make the chosen ones."""
        found: dict[str, Tensor] = {}
        for place in self.places:
            if place.is_filters and len(chosen):
                rows = place.rows[chosen].reshape(-1)
                found[place.name] = torch.cat([found.get(place.name, rows[:0]), rows]).unique()
        return found


def coupled_channels(model: nn.Module, inputs: Any, method: str) -> tuple[list[ChannelClass], dict[str, str]]:
    """The channels of a model that can leave one by one, and those that cannot.

    Args:
        model: any eager model; it is traced and not touched.
        inputs: example inputs, as ``flowprune.plan`` takes them.
        method: the regularizer's name, for messages.

    Returns:
        The classes, and the name of a layer whose channels stay -> why, in words.

    Raises:
        RecipeError: without example inputs.
        ModelError: if no channel can leave.
        TraceError: if the forward cannot be recorded.
    """
    return channel_classes(model, coupled_model(model, inputs, method), method)


def coupled_model(model: nn.Module, inputs: Any, method: str) -> CoupledModel:
    """The model traced and grouped, for ``channel_classes``.

    Raises:
        RecipeError: without example inputs.
        TraceError: if the forward cannot be recorded.
    """
    if inputs is None:
        raise RecipeError(f"{method} must know which channels leave together: give it example inputs, inputs=")
    return CoupledModel.of(model_of(model), inputs)


def channel_classes(model: nn.Module, coupled: CoupledModel, method: str) -> tuple[list[ChannelClass], dict[str, str]]:
    """What ``coupled_channels`` returns, of a model that is traced already.

    Raises:
        ModelError: if no channel can leave.
    """
    model = model_of(model)
    coupling = coupled.coupling
    nothing = np.zeros(len(coupling.classes), dtype=np.int64)
    left = {name.rpartition(".")[0] or name: reason for name, reason in coupling.frozen.items()}
    found = []
    for number, members in enumerate(coupling.classes):
        groups = [coupling.groups[group] for group in members]
        name = groups[0].name
        if any(coupling.strides[group] != 1 for group in members) or len({group.channels for group in groups}) > 1:
            left[name] = IN_STEP
            continue
        module = _normalizes_over(groups)
        if module is not None:
            left[name] = NORMALIZED.format(module=module)
            continue
        one = nothing.copy()
        one[number] = 1
        found.append(
            ChannelClass(
                name,
                groups[0].channels,
                _places(model, groups),
                (coupled.macs.count(nothing) - coupled.macs.count(one)) // coupled.batch,
                coupled.params.count(nothing) - coupled.params.count(one),
                any(seen.stage == "added" for group in groups for seen in group.maps),
            )
        )
    found = [one for one in found if any(place.is_filters for place in one.places)]
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:3])
        raise ModelError(f"{method} finds no channels in this model that could leave one by one ({reasons})")
    return found, left


def _places(model: nn.Module, groups: Sequence[CoupledGroup]) -> tuple[Place, ...]:
    parameters = dict(model.named_parameters())
    modules = dict(model.named_modules())
    return tuple(
        Place(
            parameters[member.name],
            member.name,
            member.dimension,
            member.role,
            torch.as_tensor(member.indices, dtype=torch.int64),
            _convolution_groups(modules.get(member.name.rpartition(".")[0])) if member.dimension == 0 else 1,
        )
        for group in groups
        for member in group.members
        if member.name in parameters and member.role != "input"
    )


def _convolution_groups(module: nn.Module | None) -> int:
    return module.groups if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else 1


def _normalizes_over(groups: Sequence[CoupledGroup]) -> str | None:
    """The module that normalises over the channels: a normalisation that keeps no running statistics of each."""
    for group in groups:
        norms = {member.name.rpartition(".")[0] for member in group.members if member.role == "normalization"}
        running = {member.name.rpartition(".")[0] for member in group.members if member.name.endswith(".running_mean")}
        if norms - running:
            return min(norms - running)
    return None
