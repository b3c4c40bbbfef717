"""The single weights that a mask may take, by name."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from flowprune.engine.measuring.finiteness import is_finite
from flowprune.engine.tracing import model_of
from flowprune.engine.tracing.shadow import check_weights_there
from flowprune.errors import ModelError


def single_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of convolutions (grouped, depthwise, transposed), linear layers, attention and recurrent layers.

    Biases, normalisations and embeddings are none of them; neither are parameters of a module of the user's own, nor a weight that
    is an embedding, too. A weight of several modules comes once, under its first name.

    Returns:
        Dotted name -> the parameter, detached, in the model's order.

    Raises:
        ModelError: a weight is computed from other parameters, holds NaN or infinity, or no values at all; or there is none.

    Example:
        >>> list(single_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))))
        ['0.weight', '3.weight']
    """
    model = model_of(model)
    check_weights_there(model)
    embeddings = {
        id(m._parameters.get("weight")) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    }
    found: dict[str, torch.Tensor] = {}
    seen = set(embeddings)
    for path, module in model.named_modules():
        for name in _weights_of(module):
            whole = f"{path}.{name}" if path else name
            weight = module._parameters.get(name)
            if weight is None:
                raise ModelError(
                    f"{whole} is computed from other parameters (weight norm, a parametrization), so no mask can hold it; take "
                    "that off first (torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm)"
                )
            if id(weight) in seen:
                continue
            if not is_finite(weight):
                raise ModelError(
                    f"{whole} holds NaN or infinite values; load weights from before the training diverged"
                )
            seen.add(id(weight))
            found[whole] = weight.detach()
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no convolution, linear or attention layer, so there is nothing to mask"
        )
    return found


def _weights_of(module: nn.Module) -> list[str]:
    """The names of a module's own weights."""
    if isinstance(module, _ConvNd | nn.Linear | nn.Bilinear):
        return ["weight"]
    if isinstance(module, nn.MultiheadAttention):
        apart = ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        return ["in_proj_weight"] if module._qkv_same_embed_dim else apart
    if isinstance(module, nn.RNNBase):
        return [name for name in module._flat_weights_names if name.startswith("weight")]
    return []
