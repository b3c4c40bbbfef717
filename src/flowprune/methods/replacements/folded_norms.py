"""Batch norms folded into the layers before them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flowprune.engine.tracing import FollowingNorm, Operation, Reference, filter_layers, trace
from flowprune.engine.tracing.operator_kinds import is_batch_norm
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements.in_model import replace_modules
from flowprune.methods.replacements.registry import REGISTRY

_LAYERS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@REGISTRY.register("folded_norms")
class FoldedNorms:
    """Batch norms become part of the convolution or linear layer before them, as they compute in evaluation mode.

    ``W_f <- W_f gamma_f / sqrt(var_f + eps)``, ``b_f <- (b_f - mean_f) gamma_f / sqrt(var_f + eps) + beta_f``; an identity stands
    in the norm's place. Folded is a norm with running statistics that alone reads a plain layer's output, in every call; others
    stay. Nothing can be taken back.
    """

    def matches(self, module: nn.Module) -> bool:
        """Whether it is a batch norm, or a layer that one can be folded into."""
        return type(module) in _LAYERS or isinstance(module, _BatchNorm)

    def replace(self, module: nn.Module) -> nn.Module:
        """The layer with a bias, or an identity for a batch norm. Which go together only ``in_model`` knows.

        Raises:
            ModelError: it is neither.
        """
        if isinstance(module, _BatchNorm):
            return nn.Identity()
        if not self.matches(module):
            raise ModelError(f"{type(module).__name__} is neither a batch norm nor a plain layer before one")
        new = copy.deepcopy(module)
        weight = cast(Tensor, new.weight)
        if new._parameters.get("bias") is None:
            new.register_parameter("bias", nn.Parameter(weight.new_zeros(len(weight))))
        return new

    def restore(self, module: nn.Module) -> nn.Module | None:
        """None: what was folded is gone."""
        return None

    def in_model(
        self, model: nn.Module, inputs: Any, names: Sequence[str] | None = None
    ) -> tuple[nn.Module, list[tuple[list[str], dict[str, Any]]]]:
        """A copy of the model with all such norms folded, or those of the layers that are named; and what was put where.

        Raises:
            FlowpruneError: there is none, or a named layer has none.
        """
        pairs = _pairs(model, inputs)
        for name in names or ():
            if name not in pairs:
                raise FlowpruneError(
                    f"{name} is no plain layer with a batch norm alone behind it; leave it out of names="
                )
        chosen = {name: norm for name, norm in pairs.items() if names is None or name in names}
        if not chosen:
            raise FlowpruneError(
                f"{type(model).__name__} has no batch norm that could be folded into a layer before it"
            )
        places = [path for name, norm in chosen.items() for path in (name, _path(norm))]
        new = replace_modules(model, self, places)
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        modules = dict(new.named_modules())
        for name, norm in chosen.items():
            _fold(modules[name], norm, tensors)
        return new, [(places, {})]


def _pairs(model: nn.Module, inputs: Any) -> dict[str, FollowingNorm]:
    """Plain layer -> the batch norm that can be folded into it."""
    graph = trace(model, inputs)
    runs = Counter(graph.parameters.get(mean) for one in graph.operations if (mean := _mean(one)) is not None)
    modules = dict(model.named_modules())
    return {
        layer.name: layer.norm
        for layer in filter_layers(model, inputs, graph)
        if layer.norm is not None
        and type(modules.get(layer.name)) in _LAYERS
        and isinstance(modules.get(_path(layer.norm)), _BatchNorm)
        and runs[layer.norm.running_mean] == len(layer.positions)
    }


def _mean(operation: Operation) -> int | None:
    mean = operation.argument("running_mean") if is_batch_norm(operation) else None
    return mean.value if isinstance(mean, Reference) else None


def _path(norm: FollowingNorm) -> str:
    return norm.running_mean.rpartition(".")[0]


@torch.no_grad()
def _fold(layer: nn.Module, norm: FollowingNorm, tensors: dict[str, Tensor]) -> None:
    weight, bias = cast(Tensor, layer.weight), cast(Tensor, layer.bias)
    mean, variance = tensors[norm.running_mean].double(), tensors[norm.running_var].double()
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * tensors[norm.weight].double()
    shift = (bias.double() - mean) * factor
    if norm.bias is not None:
        shift = shift + tensors[norm.bias].double()
    weight.copy_(weight.double() * factor.view(-1, *[1] * (weight.ndim - 1)))
    bias.copy_(shift)
