"""Weights on grids as whole numbers and scales, for files that hold them so."""

from __future__ import annotations

import torch
from torch import nn

from flowprune.engine.steps.copying import copy_of
from flowprune.engine.steps.lineage import lineage_of
from flowprune.methods.codecs import ChannelBits
from flowprune.methods.replacements.pact_layers import PactConv2d, PactLinear


def reads_grids(model: nn.Module) -> bool:
    """Whether a layer of the model reads its activations on a grid."""
    return any(isinstance(module, (PactConv2d, PactLinear)) for module in model.modules())


def with_integer_weights(model: nn.Module) -> nn.Module:
    """A copy whose layers behind grids of activations also hold their weights as int8 ``levels`` and ``level_scales``.

    Layers whose weights were never put on a grid, or have moved since, are as they were; and so is a model without such layers, of
    which no copy is made.
    """
    bits = {
        name: own["bits"]
        for step in lineage_of(model).steps
        if step.kind == "quantize"
        for name, own in step.data.get("stored_with", {}).items()
        if "bits" in own
    }
    if not bits or not reads_grids(model):
        return model
    copied = copy_of(model)
    for path, module in copied.named_modules():
        own = bits.get(f"{path}.weight" if path else "weight")
        if own is None or not isinstance(module, (PactConv2d, PactLinear)):
            continue
        weight = module.weight.detach()
        found = ChannelBits(bits=own).levels_of(weight.cpu().numpy())
        if found is not None:
            levels, scales = (torch.from_numpy(array).to(weight.device) for array in found)
            module.register_buffer("levels", levels)
            module.register_buffer("level_scales", scales)
    return copied
