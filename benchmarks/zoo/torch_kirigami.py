"""torch-kirigami, called as its README shows: the candidates it discovers, greedily, by group magnitude, half of each width."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

PACKAGE = "torch-kirigami"
MODES = ("eval", "train")


@dataclass(frozen=True)
class Pruned:
    """The model, cut in place."""

    model: nn.Module


def prune(model: nn.Module, inputs: tuple[Any, ...], classes: Collection[int]) -> Pruned:
    """Cut ``model`` in place. Its inputs and outputs keep their dimensions by default, so nothing need be ignored."""
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import ChannelRatio, Greedy, GroupMagnitude, Pruner

    graph = DependencyGraph.build(model, args=inputs)
    pruner = Pruner(model, graph=graph)
    model, _ = pruner.prune(
        pruner.discover_candidates(), budget=ChannelRatio(0.5), strategy=Greedy(GroupMagnitude(p=2))
    )
    return Pruned(model)
