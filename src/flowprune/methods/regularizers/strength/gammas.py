"""The scales of batch norms, and the channels they scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome
from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing import model_of
from flowprune.errors import ModelError
from flowprune.methods.regularizers.strength.coupled_channels import ChannelClass, channel_classes


def batch_norm_gammas(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name of the scale of every batch norm that has one -> the parameter."""
    found = {}
    for path, module in model_of(model).named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and isinstance(module.weight, nn.Parameter):
            found[f"{path}.weight" if path else "weight"] = module.weight
    return found


def scaled_channels(model: nn.Module, coupled: CoupledModel, method: str) -> tuple[list[ChannelClass], dict[str, str]]:
    """Of the channels that can leave one by one, those that a batch norm scales; and why the others are left out, by layer.

    Raises:
        ModelError: no channel can leave, or no batch norm scales any that can.
    """
    classes, left_out = channel_classes(model, coupled, method)
    gammas = set(batch_norm_gammas(model))
    scaled = [one for one in classes if any(place.name in gammas for place in one.places)]
    left_out |= {one.name: "no batch norm scales its channels" for one in classes if one not in scaled}
    if not scaled:
        raise ModelError(f"{method} acts on the scales of batch norms, and none scales channels that could leave")
    return scaled, left_out


def gamma_scores(one: ChannelClass, gammas: dict[str, nn.Parameter]) -> Tensor:
    """float64 ``[channels]`` on the CPU: the mean |gamma| of the norms that a channel passes."""
    told = []
    for place in one.places:
        if place.name in gammas:
            sizes = place.parameter.detach().abs().double().cpu()
            told.append(sizes[place.rows].mean(1))
    return torch.stack(told).mean(0)


def outcome_of(
    classes: Sequence[ChannelClass], scores: Sequence[Tensor], stays: Callable[[int], Tensor] | None
) -> Outcome:
    """The scores of every filter that makes the channels, and what leaves.

    Args:
        classes: the channels.
        scores: float64 ``[channels]`` of each class.
        stays: number of a class -> bool ``[channels]``; None where nothing is decided but the scores.
    """
    by_filter: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}
    for number, (one, worth) in enumerate(zip(classes, scores, strict=True)):
        for place in one.places:
            if place.is_filters:
                size = place.parameter.shape[place.dimension]
                known = by_filter.setdefault(place.name, torch.full((size,), torch.inf, dtype=torch.float64))
                known[place.rows] = worth.unsqueeze(1).expand(place.rows.shape)
        if stays is not None:
            for name, filters in one.filters((~stays(number)).nonzero().flatten()).items():
                leaves[name] = torch.cat([leaves.get(name, filters[:0]), filters]).unique()
    return Outcome(leaves=None if stays is None else leaves, scores=by_filter)
