"""Weights that a regularizer zeroes in the end: which they are, by masks selected again and again, and holding them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.measuring.single_weights import single_weights
from flowprune.engine.tracing import model_of
from flowprune.errors import ArtifactError, RecipeError

Masks = dict[str, Tensor]
"""Name of a parameter -> bool of its shape, True where the weight stays."""


def prunable_weights(model: nn.Module, dense: Sequence[str] | None, method: str) -> dict[str, nn.Parameter]:
    """The weights of convolutions, linear layers and attention that a method of single weights acts on, by name.

    Args:
        model: see ``single_weights``.
        dense: names or patterns of parameters that stay whole; None: the first and the last of them.
        method: the regularizer's name, for messages.

    Raises:
        RecipeError: a pattern names none of them, or nothing is left.
        ModelError: as ``single_weights``.
    """
    model = model_of(model)
    names = list(single_weights(model))
    patterns = [names[0], names[-1]] if dense is None else list(dense)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(f"{method}: dense={pattern!r} names no weight; the first are {', '.join(names[:3])}")
    own = dict(model.named_parameters())
    chosen = {n: own[n] for n in names if not any(fnmatchcase(n, pattern) for pattern in patterns)}
    if not chosen:
        raise RecipeError(f"{method} finds no weight to prune beside those that stay whole; name fewer in dense=")
    return chosen


@torch.no_grad()
def scale_pruned(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor], factor: float) -> None:
    """Multiply the weights that do not stay, in place; by 0 also those that are no number any more."""
    for name, mask in masks.items():
        if factor:
            parameters[name].copy_(torch.where(mask, parameters[name], parameters[name] * factor))
        else:
            parameters[name].masked_fill_(~mask, 0.0)


def kept_share(masks: Mapping[str, Tensor]) -> float:
    """The share of these weights that stay; 1 where there is no mask yet."""
    total = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / total if total else 1.0


def saved_masks(state: Any, parameters: Mapping[str, Tensor], method: str) -> Masks:
    """The masks in a state that was saved, on the devices of the parameters.

    Raises:
        ArtifactError: they are none, or of other weights.
    """
    fits = isinstance(state, Mapping) and all(
        name in parameters and isinstance(mask, Tensor) and mask.shape == parameters[name].shape
        for name, mask in state.items()
    )
    if not fits:
        raise ArtifactError(f"the state is of {method} on other weights")
    return {name: mask.to(parameters[name].device, torch.bool) for name, mask in state.items()}
