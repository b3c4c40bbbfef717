"""Carry out a mask: a copy of the model whose masked weights are zero, and which knows that they stay so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.steps.copying import copy_of
from flowprune.engine.steps.lineage import Step, attach_lineage, lineage_of
from flowprune.errors import ModelError


def masked(model: nn.Module, masks: Mapping[str, Tensor], description: Mapping[str, Any]) -> nn.Module:
    """A copy of the model with zeros where ``masks`` are False, and where masks before them were.

    Args:
        model: left as it is.
        masks: name of a parameter -> bool of its shape.
        description: what the step says of the mask, JSON-able; how many weights are kept of how many is added to it.

    Raises:
        ModelError: a mask is no bool tensor, or of no parameter, or of another shape.
    """
    copied = copy_of(model)
    lineage = lineage_of(model)
    held = held_where(copied, masks, lineage.masks)
    set_to_zero(copied, {name: held[name] for name in masks})
    counts = {"kept": sum(int(held[name].sum()) for name in masks), "of": sum(mask.numel() for mask in masks.values())}
    attach_lineage(copied, lineage.with_step(Step("mask", {**description, **counts}), held))
    return copied


def held_where(
    model: nn.Module, masks: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """These masks and those ``before`` them, on the CPU: what one of them takes stays away.

    Raises:
        ModelError: a mask is no bool tensor, or of no parameter of the model, or of another shape.
    """
    parameters = dict(model.named_parameters())
    held = dict(before or {})
    for name, mask in masks.items():
        if name not in parameters:
            raise ModelError(f"there is a mask for {name!r}, which is no parameter of {type(model).__name__}")
        if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            raise ModelError(
                f"the mask for {name} holds {mask.dtype} of shape {list(mask.shape)}; give bool of {list(parameters[name].shape)}"
            )
        kept = mask.detach().cpu()
        held[name] = kept & held[name] if name in held else kept.clone()
    return held


def set_to_zero(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Write zeros into the model's own parameters, where masks are False."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)
