"""The oracle of the engine: the dense model with everything the plan removes set to zero, where it is made and where it is read.

It knows nothing of labels or rules: it takes the plan's slices of parameters and nothing else. If a rule is wrong, the small model
reads other channels than the twin and their outputs differ.

- A removed row of a weight or bias makes a channel that is zero, a removed slice of a weight that reads does not read it, whatever
  the layer is: convolutions and linear layers of any kind, embeddings, attention's projections, class tokens, layer scales,
  position tables (buffers, too), kernels handed to ``F.conv2d``. A channel that only a product reads (attention's queries) adds
  zero to it.
- A layer, group or RMS norm over a pruned width is one over the kept channels. Which they are says its weight. The functionals are
  watched, so it does not matter which module calls them. One without a weight runs over the channels that are not zero everywhere.
- So is a norm that is written out by hand, if a module with "Norm" or "GRN" (global response norm) in its name does nothing else:
  it runs on the kept channels.
- What the plan folds into a bias or a running mean is added there.

The twin is *not* defined where a removed channel is read without a weight and its zero counts: sums, means and softmax over
channels, norms written out within other code, or without a weight where something has moved the silent channels, products of
features that are not zero where their argument is (``elu(q) + 1``) inside a head that stays, and statistics of a weight that has
lost slices (weight standardisation). Only there a difference is no proof.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from flowprune.engine.allocation import Plan

NORMALIZATIONS: dict[Any, tuple[str, ...]] = {
    nn.functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    torch.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    nn.functional.rms_norm: ("input", "normalized_shape", "weight", "eps"),
    torch.rms_norm: ("input", "normalized_shape", "weight", "eps"),
    nn.functional.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    torch.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
}
"""The functionals that normalise over channels, and the names of their arguments in order."""


def silenced_twin(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of ``model`` that computes what its pruned version must."""
    twin = copy.deepcopy(model)
    kept: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
            if name in plan.shifts:
                tensor.add_(plan.shifts[name].to(tensor))
            if not tensor.is_floating_point():
                continue
            mask = torch.ones(tensor.shape, dtype=torch.bool)
            for dimension, indices in plan.removed.get(name, {}).items():
                mask.index_fill_(dimension, torch.tensor(indices, dtype=torch.long), False)
            if not mask.all():
                tensor.mul_(mask)
                kept[id(tensor)] = mask
    for module in list(twin.modules()):
        _run_on_kept(module, kept)
    _watch(twin, kept)
    return twin


def _run_on_kept(module: nn.Module, kept: Mapping[int, torch.Tensor]) -> None:
    """Let a norm that is written out by hand see the channels that its weights keep, and return zeros elsewhere."""
    masks = [kept.get(id(parameter)) for parameter in module.parameters()]
    known = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    named = any(word in type(module).__name__ for word in ("Norm", "GRN"))
    if not named or isinstance(module, known) or hasattr(module, "normalized_shape"):
        return
    if not masks or masks[0] is None or list(module.children()):
        return
    indices = masks[0].reshape(-1).nonzero().squeeze(1)
    alone = copy.deepcopy(module)
    for name, parameter in list(alone.named_parameters()):
        dimension = max(range(parameter.dim()), key=lambda d: parameter.shape[d])
        setattr(alone, name, nn.Parameter(parameter.detach().index_select(dimension, indices)))
    width, shape = masks[0].numel(), list(masks[0].shape)
    from_behind = shape[::-1].index(max(shape)) + 1  # where a weight of several dimensions meets what it scales

    def forward(x: torch.Tensor) -> torch.Tensor:
        candidates = (x.dim() - from_behind,) if len(shape) > 1 else (x.dim() - 1, 1)
        dimension = next(d for d in candidates if x.shape[d] == width)
        result = alone.to(x.dtype)(x.index_select(dimension, indices))
        return torch.zeros_like(x).index_copy(dimension, indices, result)

    module.forward = forward


def _watch(twin: nn.Module, kept: Mapping[int, torch.Tensor]) -> None:
    """Run the twin's forward with normalisations over kept channels only."""
    forward = twin.forward

    def watched(*arguments: Any, **keywords: Any) -> Any:
        with _KeptNormalization(kept):
            return forward(*arguments, **keywords)

    twin.forward = watched


class _KeptNormalization(TorchFunctionMode):
    """Normalisations whose weight has lost entries run over what is left; the others, and everything else, run as they are."""

    def __init__(self, kept: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        keywords: dict[str, Any] | None = None,
    ) -> Any:
        if function in NORMALIZATIONS:
            given = dict(zip(NORMALIZATIONS[function], arguments, strict=False)) | (keywords or {})
            weight = given.get("weight")
            mask = _not_silent(given) if weight is None else self._kept.get(id(weight))
            if mask is not None:
                return _normalized(given, mask, centred="rms" not in function.__name__)
        return function(*arguments, **(keywords or {}))


def _not_silent(given: Mapping[str, Any]) -> torch.Tensor | None:
    """The channels of a layer or RMS norm without a weight that are not zero everywhere; None if that are all, or none."""
    x = given["input"]
    if "num_groups" in given or len(given["normalized_shape"]) != 1:
        return None
    mask = (x != 0).reshape(-1, x.shape[-1]).any(dim=0)
    return None if mask.all() or not mask.any() else mask


def _normalized(given: Mapping[str, Any], mask: torch.Tensor, centred: bool) -> torch.Tensor:
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    if "num_groups" in given:
        shape = (1, -1, *[1] * (x.dim() - 2))
        groups = x.reshape(x.shape[0], given["num_groups"], -1)
        spread = mask.view(shape).expand(1, *x.shape[1:]).reshape(1, given["num_groups"], -1)
        result = _standardized(groups, spread, (2,), given.get("eps", 1e-5), centred).reshape(x.shape)
        weight, bias = weight.view(shape), None if bias is None else bias.view(shape)
    else:
        dimensions = tuple(range(x.dim() - mask.dim(), x.dim()))
        eps = given.get("eps", 1e-5 if centred else None)
        result = _standardized(x, mask, dimensions, torch.finfo(x.dtype).eps if eps is None else eps, centred)
    if weight is None:
        return result
    return result * weight if bias is None else result * weight + bias


def _standardized(
    x: torch.Tensor, mask: torch.Tensor, dimensions: tuple[int, ...], eps: float, centred: bool
) -> torch.Tensor:
    """x less its mean, over its standard deviation; both over where ``mask`` holds (a group may have lost all it had)."""
    mask = mask.to(x.dtype)
    count = mask.expand(x.shape[-mask.dim() :]).sum(tuple(range(-len(dimensions), 0)), keepdim=True).clamp(min=1)
    if centred:
        x = x - (x * mask).sum(dimensions, keepdim=True) / count
    return x / torch.sqrt((x * x * mask).sum(dimensions, keepdim=True) / count + eps)


def randomized(model: nn.Module, seed: int = 0, dead: float = 0.0) -> nn.Module:
    """Batch norms far from the identity, and every other parameter away from zero: no difference can hide.

    ``dead`` is the share of batch-norm channels made exactly dead, silent behind a ReLU (beta below zero).
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return (torch.rand(like.shape, generator=generator) * (high - low) + low).to(like)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and module.weight is not None:
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                module.bias.copy_(uniform(module.bias, -0.3, 0.5))
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
                module.running_var.copy_(uniform(module.running_var, 0.5, 1.5))
                if dead:
                    mask = torch.rand(module.weight.shape, generator=generator) < dead
                    module.weight[mask] = 0.0
                    module.bias[mask] = -module.bias[mask].abs() - 0.1
            elif isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)) and module.weight is not None:
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, -0.3, 0.5))
    return model


def largest_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).detach().abs().max())


def same_state(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
