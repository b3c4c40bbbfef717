"""Torch-Pruning (Fang et al., CVPR 2023), called as its README shows: the base pruner, group magnitudes, half of the channels.

What a user must know of an architecture to help it (numbers of heads, parameters outside of modules) is not given: flowprune gets
no such help either.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

PACKAGE = "torch-pruning"
MODES = ("eval", "train")


@dataclass(frozen=True)
class Pruned:
    """The model, cut in place."""

    model: nn.Module


def prune(model: nn.Module, inputs: tuple[Any, ...], classes: Collection[int]) -> Pruned:
    """Cut ``model`` in place; the layers that make its outputs, of these sizes, are ignored."""
    import torch_pruning as tp

    pruner = tp.pruner.BasePruner(
        model,
        inputs[0] if isinstance(inputs[0], torch.Tensor) else list(inputs),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=classifiers(model, classes),
    )
    pruner.step()
    return Pruned(model)


def classifiers(model: nn.Module, classes: Collection[int]) -> list[nn.Module]:
    """The layers that make the model's outputs: those with as many as there are classes, and a detector's heads.

    The README asks for ``out_features == 1000``; networks for segmentation and squeezenet end in a convolution, and a network
    without a classifier returns features, whose width must stay.
    """
    heads = [getattr(model, name) for name in ("head", "roi_heads", "rpn") if hasattr(model, name)]
    if heads and hasattr(model, "backbone"):
        return heads
    return [
        layer
        for layer in model.modules()
        if (isinstance(layer, nn.Linear) and layer.out_features in classes)
        or (isinstance(layer, nn.Conv2d) and layer.out_channels in classes)
    ]
