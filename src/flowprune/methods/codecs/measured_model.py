"""The verb ``measure``: what a model costs, and what an artifact of it takes."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from flowprune.engine.measuring import Measurement
from flowprune.engine.measuring import measure as cost_of
from flowprune.engine.signatures import Inputs
from flowprune.engine.steps.lineage import lineage_of
from flowprune.methods.codecs.stored_model import stored_model
from flowprune.old_paths import formerly


@formerly("x", "inputs")
def measure(model: nn.Module, inputs: Inputs) -> Measurement:
    """Count multiply-accumulates (MACs), parameters and bytes; and those that are left where weights are zero, or few values.

    MACs are half of what ``torch.utils.flop_counter.FlopCounterMode`` counts: convolutions, linear layers and matrix
    products; batch norm, activations and additions are not counted, as in this field's tables (whose "FLOPs" are MACs).

    Args:
        model: any eager model; it is not touched. See ``flowprune.engine.measuring.measure`` for how it is run.
        inputs: what the forward takes: a tensor, a tuple or list of positional arguments, or a dictionary of keyword
            arguments. The first dimension of the first tensor is the batch, which is divided out.

    Returns:
        ``macs`` an image and ``effective_macs``, those of them whose weight is not zero; ``params``, and how many of them are
        ``nonzero``; ``bytes`` as the tensors are, and ``stored_bytes`` as ``save`` stores them, by the codec of those that are
        quantized (without the file's header); ``layers``, module by module.

    Raises:
        ModelError: the forward raises on ``inputs``, or the model is a wrapper or cannot be copied.

    Example:
        >>> import torch, flowprune as fp
        >>> layer = torch.nn.Conv2d(3, 8, 3, padding=1)
        >>> with torch.no_grad():
        ...     layer.weight[:2] = 0
        >>> found = fp.measure(layer, torch.zeros(1, 3, 32, 32))
        >>> found.macs, found.effective_macs, found.params, found.bytes, found.stored_bytes
        (221184, 165888, 224, 896, 896)
    """
    cost = cost_of(model, inputs)
    changed = any(step.kind in ("mask", "quantize") for step in lineage_of(model).steps)
    return replace(cost, stored_bytes=stored_model(model).size if changed else cost.bytes)
