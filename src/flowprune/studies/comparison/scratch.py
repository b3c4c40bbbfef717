"""The small architecture with new weights: what pruning must beat to be worth more than a search for an architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.steps.lineage import attach_lineage, lineage_of
from flowprune.engine.surgery import cut
from flowprune.models import names
from flowprune.models.initialisation import initialise


def from_scratch(dense: nn.Module, name: str, plans: Sequence[Plan]) -> nn.Module:
    """A network of the architecture that ``plans`` leave, with untrained weights.

    The freshly built dense model is cut as the trained one was, so every tensor is drawn as the model's own builder draws it (the
    plans' shifts, which are trained weights' doing, are left out). This package's networks draw their weights once more
    after the cut, because the deviation of theirs depends on the width. Liu et al., Rethinking the Value of Network Pruning,
    ICLR 2019, arXiv 1810.05270, train such networks beside pruned ones.

    Args:
        dense: just built, with random weights; not touched.
        name: of its builder.
        plans: all that cut the trained model, the oldest first.
    """
    small = dense
    for plan in plans:
        bare = replace(plan, shifts={})
        lineage = lineage_of(small).with_plan(bare.as_dict())
        small = cut(small, bare)
        attach_lineage(small, lineage)
    if name in names():
        initialise(small)
    return small
