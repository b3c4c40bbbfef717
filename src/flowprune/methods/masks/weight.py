"""Unstructured mask: the weights that score highest stay, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from flowprune.engine.interfaces import Keep
from flowprune.errors import BudgetError, FlowpruneError
from flowprune.methods.masks.kept_weights import check_scores, checked_keep, whole_number
from flowprune.methods.masks.registry import REGISTRY


@REGISTRY.register("weight")
class Weight:
    """Single weights: those of the lowest scores are zero.

    Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, arXiv 1506.02626; ranked over the
    network or in each tensor. Works on every weight: of linear layers, attention, grouped and depthwise convolutions.

    Args:
        scope: "global" ranks all weights together, "local" keeps the same share of every tensor. Where ``keep`` gives each
            parameter a share of its own (an allocator's), that is what each keeps.

    Example:
        >>> masks = Weight().select({"layer.weight": torch.tensor([[0.1, 3.0], [2.0, 0.2]])}, keep=0.5)
        >>> masks["layer.weight"].tolist()
        [[False, True], [True, False]]
    """

    def __init__(self, *, scope: Literal["global", "local"] = "global") -> None:
        if scope not in ("global", "local"):
            raise FlowpruneError(f'scope={scope!r} is not known; use "global" or "local"')
        self.scope = scope

    def select(self, scores: Mapping[str, torch.Tensor], keep: Keep | None = None) -> dict[str, torch.Tensor]:
        """Exactly ``floor(keep * n)`` weights stay, of n in all, or of each tensor. Of equal scores the later weights stay.

        Args:
            scores: name of the parameter -> a tensor of its shape; ``inf`` is the last to leave.
            keep: a share of all weights, or of each parameter.

        Returns:
            Name -> a boolean tensor of its shape, on its device.

        Raises:
            BudgetError: ``keep`` is None, no share, or keeps no weight at all.
            ModelError: scores hold NaN, or there are none.
        """
        check_scores(scores)
        if keep is None:
            raise BudgetError("a mask of single weights needs a budget, for example weights=0.5")
        keep = checked_keep(keep, scores)
        if isinstance(keep, Mapping):
            return {name: _highest(score, whole_number(keep[name], score.numel())) for name, score in scores.items()}
        if self.scope == "local":
            masks = {name: _highest(score, whole_number(keep, score.numel())) for name, score in scores.items()}
            return _checked(masks, keep)
        device = next(iter(scores.values())).device
        flat = torch.cat([score.detach().to(device, torch.float64).flatten() for score in scores.values()])
        pieces = _highest(flat, whole_number(keep, flat.numel())).split([score.numel() for score in scores.values()])
        masks = {
            name: piece.to(score.device).view(score.shape)
            for (name, score), piece in zip(scores.items(), pieces, strict=True)
        }
        return _checked(masks, keep)


def _highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """True at the ``count`` highest scores."""
    order = scores.detach().flatten().sort(stable=True).indices
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order[: scores.numel() - count]] = False
    return mask.view(scores.shape)


def _checked(masks: dict[str, torch.Tensor], keep: float) -> dict[str, torch.Tensor]:
    if not any(mask.any() for mask in masks.values()):
        weights = sum(mask.numel() for mask in masks.values())
        raise BudgetError(
            f"weights={keep:g} keeps none of {weights:,} weights; the smallest share is {1 / weights:.2g}"
        )
    return masks
