"""Channels that hardly count in an entropic regression leave, and the layers that read them are refitted: in one decision."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.interfaces import Outcome
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.planning import CoupledModel
from flowprune.errors import FlowpruneError
from flowprune.methods.recovery._calibration.consumers import consumers
from flowprune.methods.recovery._calibration.in_step import calibration_inputs, walk
from flowprune.methods.recovery._calibration.normal_equations import Moments
from flowprune.methods.recovery._calibration.patches import weight_matrix
from flowprune.methods.recovery._calibration.reading_layers import Uncut, filters_of, places_read
from flowprune.methods.recovery.entropic_regression import EntropicRegression
from flowprune.methods.recovery.least_squares import gathered, put

FEWEST = 2
"""A layer reads at least so many channels of a group, as a cut keeps them."""


def sparsify_entropically(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    below: float = 0.1,
    regression: EntropicRegression | None = None,
    turns: int = 20,
    ridge: float = 1e-3,
    at_once: int = 8,
) -> Outcome:
    """Which filters leave, what each is worth, and the weights of the layers that read what is left; ``model`` stays as it is.

    Generalized Entropic Sparsification of Convolutional Neural Networks, arXiv 2404.04734, after the published abstract and the
    authors' linear solver (``EntropicRegression``, compared with it): how it goes into a network is not published, and is chosen
    here. Layer by layer in the order of the network, X are the patches that the layer reads in the network *sparsified so far*
    and P what the dense layer says; both are divided by their root mean square, so that strengths mean the same in every layer. All
    positions of an input channel share a weight w. Channels below ``below`` of the mean weight leave the layer, whose weight is
    then refitted on the others, as ``LeastSquares`` does. A channel leaves the network if no layer that reads it has kept it; what
    it is worth is its largest w beside the mean.

    Linear layers and convolutions without groups take part. Channels that another layer reads too (grouped other than
    depthwise, transposed, running more than once), or that may not leave the network, are kept. Behind a norm over channels,
    what the cut leaves is not exactly what was refitted. Depthwise layers and norms only pass channels on.

    Args:
        model: the dense model.
        batches: calibration images: tensors, (input, target) pairs or dictionaries of keyword inputs.
        below: from 0 (nothing leaves) to 1.
        regression: strengths, which entropy is favoured, and whether variance counts; ``EntropicRegression(favours="small")`` if
            None.
        turns: of weights and coefficients in each layer.
        ridge: of the refits, see ``LeastSquares``.
        at_once: batches whose forwards are held, see ``LeastSquares``.

    Returns:
        ``leaves`` and ``scores`` by the names of the weights that make the channels, and ``weights`` of the layers that read them:
        put them into the model (with zeros where channels left, ``load_state_dict``), then ``plan(model, inputs, outcome=...)``.

    Raises:
        FlowpruneError: ``below`` is not such a share, or nothing in the model takes part.
        DataError, ModelError, TraceError: as ``LeastSquares``.

    Example:
        >>> outcome = sparsify_entropically(model, batches, below=0.2)
        >>> model.load_state_dict({**model.state_dict(), **outcome.weights})
        >>> small = fp.prune(model, fp.plan(model, inputs, outcome=outcome))
    """
    if not 0 <= below <= 1:
        raise FlowpruneError(f"below={below}: it is a share of the mean weight, from 0 to 1")
    if not (ridge >= 0 and math.isfinite(ridge)) or turns < 1 or at_once < 1:
        raise FlowpruneError(f"ridge={ridge}, turns={turns}, at_once={at_once}: from 0, from 1 and from 1 on")
    inputs = calibration_inputs(model, batches)
    groups = CoupledModel.of(model, inputs[0]).coupling.groups
    small = copy.deepcopy(model)
    with evaluating(small, model):
        found = consumers(small, model, Uncut(), inputs[0], every_layer=True)
        reading = {name: _Read(places) for name, places in places_read(groups, found.layers).items()}
        if not reading:
            raise FlowpruneError("no layer of the model reads channels that may leave and can be refitted")
        votes = [_Votes.of(group) for group in groups]
        pairs = {name: (found.layers[name].small, found.layers[name].dense) for name in reading}
        method, changed = regression or EntropicRegression(favours="small"), {}
        for name, seen in walk(small, model, pairs, inputs, at_once):
            layer, read = found.layers[name], reading[name]
            equations, weight = gathered(layer, seen), weight_matrix(layer.small).double()
            moments = equations.moments(weight)
            channels = torch.arange(layer.small.weight.shape[1]).repeat_interleave(layer.small.weight[0, 0].numel())
            owner, count = read.owners(channels)
            owner = owner.to(weight.device)
            w, _, _ = method.alternate(_of_one_size(moments), owner, turns=turns)
            seen_at_all = torch.zeros_like(w).index_add(0, owner, moments.squares.diagonal()) > 0
            leaving = read.leaving(w * count * seen_at_all, below, votes)  # what is always zero is worth nothing
            gone = leaving.to(weight.device)[owner]
            change, constant = equations.without(gone, weight).solve(ridge, layer.constant is not None)
            new = weight.clone()
            new[:, :, gone] = 0
            new[:, :, ~gone] += change
            put(layer, new, constant)
            changed[layer.weight_name] = layer.small.weight.detach().clone()
            if layer.constant_name is not None and layer.constant is not None:
                changed[layer.constant_name] = layer.constant.detach().clone()
    leaves, scores = _decided(groups, votes, model)
    return Outcome(leaves=leaves, scores=scores, weights=changed)


@dataclass
class _Votes:
    """What the layers that read a group say of its channels."""

    kept: Tensor
    worth: Tensor
    readers: int = 0

    @classmethod
    def of(cls, group: CoupledGroup) -> _Votes:
        return cls(torch.zeros(group.channels, dtype=torch.bool), torch.zeros(group.channels, dtype=torch.float64))


@dataclass
class _Read:
    """Which groups' channels a layer reads: number of the group -> ``[channels, k]``, where they are among its inputs."""

    places: dict[int, Tensor] = field(default_factory=dict)
    units: dict[int, Tensor] = field(default_factory=dict)

    def owners(self, channels: Tensor) -> tuple[Tensor, int]:
        """Of each column of the weight the number of what has one weight: a group's channel, or an input of its own."""
        owner = torch.full((int(channels.max()) + 1,), -1)
        count = 0
        for group, places in self.places.items():
            numbers = torch.arange(count, count + len(places))
            owner[places] = numbers[:, None].expand_as(places)
            self.units[group] = numbers
            count += len(places)
        alone = owner < 0
        owner[alone] = torch.arange(count, count + int(alone.sum()))
        return owner[channels], count + int(alone.sum())

    def leaving(self, worth: Tensor, below: float, votes: list[_Votes]) -> Tensor:
        """Which units leave this layer, bool; what is kept is put down with the votes."""
        worth = worth.cpu()
        leaving = torch.zeros(len(worth), dtype=torch.bool)
        for group, units in self.units.items():
            low = worth[units] < below
            low[worth[units].topk(min(FEWEST, len(units))).indices] = False
            leaving[units] = low
            votes[group].kept |= ~low
            votes[group].worth = torch.maximum(votes[group].worth, worth[units])
            votes[group].readers += 1
        return leaving


def _of_one_size(moments: Moments) -> Moments:
    """Inputs and outputs divided by their root mean squares."""
    count = moments.count
    x = float(moments.squares.diagonal().mean() / count) ** 0.5 or 1.0
    p = float(moments.outputs_squared.mean() / count) ** 0.5 or 1.0
    return Moments(
        count,
        moments.squares / x**2,
        moments.products / (x * p),
        moments.inputs / x,
        moments.outputs / p,
        moments.outputs_squared / p**2,
    )


def _decided(groups: Any, votes: list[_Votes], model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By the names of the weights that make the channels."""
    leaving: dict[str, list[Tensor]] = {}
    scores: dict[str, Tensor] = {}
    for group, vote in zip(groups, votes, strict=True):
        for name, filters, places in filters_of(group, model) if vote.readers else ():
            leaving.setdefault(name, []).append(places[~vote.kept].flatten())
            worth = scores.setdefault(name, torch.full((filters,), torch.inf, dtype=torch.float64))
            worth[places] = vote.worth[:, None].expand(places.shape)
    return {name: torch.cat(parts).sort().values for name, parts in leaving.items()}, scores
