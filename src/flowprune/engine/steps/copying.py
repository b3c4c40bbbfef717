"""A whole model once more, to be changed while its owner keeps the first."""

from __future__ import annotations

from torch import nn

from flowprune.engine.steps.lineage import attach_lineage, lineage_of
from flowprune.engine.tracing import model_of
from flowprune.engine.tracing.shadow import check_weights_there, copy_with, own_tensor


def copy_of(model: nn.Module) -> nn.Module:
    """A copy of the whole model, with parameters of its own; without the hooks that only watch it.

    Raises:
        ModelError: it is a wrapper, cannot be copied, or has no numbers.
    """
    check_weights_there(model_of(model))
    lineage = lineage_of(model)
    new = copy_with(model, own_tensor)
    attach_lineage(new, lineage)
    return new
