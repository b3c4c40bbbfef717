"""The oracle of the engine: the dense model with everything the plan removes set to zero where it is read.

It knows nothing of labels or rules: it takes the plan's slices of convolution and linear weights and zeroes the input slices.
If a rule is wrong, the small model reads other channels than the twin and their outputs differ.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from flowprune.allocation import Plan


def silenced_twin(model: nn.Module, plan: Plan) -> nn.Module:
    twin = copy.deepcopy(model)
    for path, module in twin.named_modules():
        name = f"{path}.weight" if path else "weight"
        removed = plan.removed.get(name, {})
        reading = 0 if isinstance(module, nn.ConvTranspose2d) else 1
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)) and reading in removed:
            with torch.no_grad():
                module.weight.index_fill_(reading, torch.tensor(removed[reading]), 0.0)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and 0 in removed:
            kept = [c for c in range(module.weight.numel()) if c not in removed[0]]
            module.register_forward_hook(partial(_normalized_over_kept, kept=kept))
    return twin


def _normalized_over_kept(
    module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor, kept: list[int]
) -> torch.Tensor:
    """A normalisation over a pruned width is one over the kept channels; the others are never read."""
    (x,) = inputs
    result = torch.zeros_like(output)
    weight, bias = module.weight[kept], None if module.bias is None else module.bias[kept]
    if isinstance(module, nn.GroupNorm):
        result[:, kept] = nn.functional.group_norm(x[:, kept], module.num_groups, weight, bias, module.eps)
    elif x.shape[-1] == module.weight.numel() and "2d" not in type(module).__name__:
        result[..., kept] = nn.functional.layer_norm(x[..., kept], (len(kept),), weight, bias, module.eps)
    else:  # channels first
        moved = x[:, kept].movedim(1, -1)
        result[:, kept] = nn.functional.layer_norm(moved, (len(kept),), weight, bias, module.eps).movedim(-1, 1)
    activation = getattr(module, "act", None)  # timm's normalisations with an activation in them
    return result if activation is None else activation(result)


def randomized(model: nn.Module, seed: int = 0, dead: float = 0.0) -> nn.Module:
    """Batch norms far from the identity, and every other parameter away from zero: no difference can hide.

    ``dead`` is the share of batch-norm channels made exactly dead, silent behind a ReLU (beta below zero).
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return (torch.rand(like.shape, generator=generator) * (high - low) + low).to(like)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                module.bias.copy_(uniform(module.bias, -0.3, 0.5))
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
                module.running_var.copy_(uniform(module.running_var, 0.5, 1.5))
                if dead:
                    mask = torch.rand(module.weight.shape, generator=generator) < dead
                    module.weight[mask] = 0.0
                    module.bias[mask] = -module.bias[mask].abs() - 0.1
            elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)) and module.weight is not None:
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, -0.3, 0.5))
    return model


def largest_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).detach().abs().max())


def same_state(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
