"""Scores that are averages over images of what one image's feature maps say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flowprune.engine.measuring import is_finite
from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing import trace
from flowprune.errors import ModelError
from flowprune.methods.importance._maps.map_stages import maps_for
from flowprune.methods.importance._maps.map_watch import evaluation_shadow, watch_maps
from flowprune.methods.importance._passes.calibration_data import inputs_in
from flowprune.methods.importance._passes.full_precision import full_precision

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup

PerImage = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(a layer's tensor ``[images, channels of the layer, ...]``, ``[channels, k]``: the places of each channel of a group in
it) -> ``[images, channels]``."""


def image_averages(
    model: nn.Module,
    inputs: Any,
    batches: Iterable[Any],
    groups: Sequence[CoupledGroup],
    per_image: PerImage,
    *,
    stage: str,
    aggregation: str,
    criterion: str,
) -> list[list[tuple[Any, torch.Tensor]]]:
    """For each group, the layer and the averages ``[channels]`` (float64) of each of its feature maps.

    Every image weighs the same, however the images are cut into batches. The model runs in evaluation mode on a shadow
    and is not touched.

    Raises:
        DataError: no batch.
        ModelError: a feature map is NaN or infinite, or the forward depends on the data.
    """
    chosen = [maps_for(group, stage, aggregation) for group in groups]
    every = [feature for maps in chosen for feature in maps]
    if not every:
        return [[] for _ in groups]
    totals: dict[int, torch.Tensor] = {}
    rows: dict[int, int] = {}  # images; or tokens, where a map keeps those of all images in its first dimension
    at: dict[tuple[int, int], list[int]] = {}
    for number, feature in enumerate(every):
        at.setdefault(feature.position, []).append(number)

    def see(position: tuple[int, int], tensor: torch.Tensor) -> None:
        check_map(tensor, every[at[position][0]].unit)
        for number in at[position]:
            moved = tensor.movedim(every[number].dimension, 1)
            found = per_image(moved, torch.as_tensor(every[number].indices, device=tensor.device))
            total = found.sum(dim=0, dtype=torch.float64)
            totals[number] = totals[number] + total if number in totals else total
            rows[number] = rows.get(number, 0) + len(found)

    graph, twin = trace(model, inputs), evaluation_shadow(model)
    with torch.random.fork_rng(devices=[]), full_precision():
        for batch in inputs_in(batches, model_device(model), criterion):
            watch_maps(twin, graph, batch, at, see)
    averages = iter(totals[number] / rows[number] for number in range(len(every)))
    return [[(feature.position, next(averages)) for feature in maps] for maps in chosen]


def check_map(tensor: torch.Tensor, unit: str) -> None:
    """Raise a ``ModelError`` that names the layer if its map holds NaN or infinity."""
    if not is_finite(tensor):
        raise ModelError(f"the feature map of {unit!r} holds NaN or infinite values; check the weights and the inputs")


def channel_maps(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """``[images, channels, height, width]``: the maps of each channel.

    Everything that is neither batch nor channel is a position. A channel that takes k places has its k maps one below
    the other; a tensor without positions has 1 x 1 maps, one with a single row of them 1 x n maps.

    Args:
        tensor: ``[images, channels of the layer, ...]``.
        indices: ``[channels, k]``.
    """
    channels, places = indices.shape
    picked = tensor.index_select(1, indices.flatten())
    if picked.ndim <= 3:
        picked = picked.reshape(*picked.shape[:2], 1, -1)
    images, _, height = picked.shape[:3]
    return picked.reshape(images, channels, places * height, -1)
