"""How much of a network is dead at the moment, the same for all processes of a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils import _pytree as pytree

from flowprune.engine.measuring import dead_filters


def dead_and_small_share(model: nn.Module, inputs: Any) -> tuple[float, float]:
    """Dead filters over all filters, as ``flowprune.engine.measuring.dead_filters`` counts them without data, and those below
    ten times the threshold of the dead, these included."""
    counted = dead_filters(model, inputs)
    filters = max(1, counted.filters)
    return counted.dead / filters, counted.by_threshold[SMALL_BELOW] / filters


SMALL_BELOW = 1e-1
"""A filter is small below this share of the reference, one of ``measuring.dead_filters``' thresholds."""


def first_images(inputs: Any) -> Any:
    """The example inputs with two images of each tensor only, detached copies."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach()[:2].clone() if tensor.dim() else tensor, inputs)


def agreed(share: float, device: torch.device) -> float:
    """The mean over all processes, so that each goes on with the same strength."""
    if not _several_processes():
        return share
    mean = torch.tensor([share], dtype=torch.float32, device=device)
    distributed.all_reduce(mean)
    return float(mean) / distributed.get_world_size()


def is_first_process() -> bool:
    """Whether this process is the one that speaks for all."""
    return not _several_processes() or distributed.get_rank() == 0


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
