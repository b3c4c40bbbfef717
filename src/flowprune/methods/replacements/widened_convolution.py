"""Widening and squeezing: hidden convolutions with more features, of k bits each."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from flowprune.engine.tracing import FollowingNorm, filter_layers, trace
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.quantizers._channelwise.dorefa import checked_dorefa_bits
from flowprune.methods.quantizers._channelwise.widened_layer import (
    WidenedConv2d,
    convolution_like,
    pointwise,
)
from flowprune.methods.replacements.in_model import matching, replace_modules
from flowprune.methods.replacements.registry import REGISTRY

DEVIATIONS = 3.0
"""How many standard deviations around its mean a feature is taken to reach."""


@REGISTRY.register("widened_convolution")
class WidenedConvolution:
    """Hidden convolutions with more features, of k bits each, which a 1x1 projection leads back to as many as there were.

    After Liu et al., Widening and Squeezing: Towards Accurate and Efficient QNNs, arXiv 2002.00555; "-style", as there is no
    code and no text beyond the abstract: features of full precision are projected to more features of few bits, and those that are
    redundant leave. Chosen here, with W the filters of a convolution, Q_w and Q_a the quantizers of DoReFa-Net
    (arXiv 1606.06160, sections 2.3 and 2.4) and P a 1x1 convolution of full precision::

        F_wide = scale Q_w(W_wide) x + shift,   F = P Q_a(F_wide) + bias

    It begins with the function that the convolution had, but for rounding and for what lies beyond the range: half of the
    wide filters are W and half are -W, so that one clip sees what is above zero and the other what is below, and P takes their
    difference; each further pair sees the next part of the range, as a thermometer does, so that k bits cover less of it. The
    range is that of the batch norm which follows, three standard deviations around its mean. Q_w takes each filter's own maximum
    instead of the layer's, or a filter that leaves would change the others; the scale, which DoReFa leaves to a batch norm,
    begins with what fits W best.

    P is no grid: the levels of DoReFa have no zero, and a column of zeros is what a wide feature leaves by. It stays in
    the network as a 1x1 convolution, for between it and the next layer's filters lies an activation; a batch norm behind it can be
    folded into it (``folded_norms``). What the convolution reads is of full precision, as P gives it back. ``restore``
    makes three plain layers of it with the weights of the grid, and nothing rounds weights any more: do it last.

    Taken are two-dimensional convolutions of one group, all but the first that runs, which reads the image, or those that are
    named. Grouped and depthwise convolutions and linear layers stay; of transformers nothing but patches could be taken, and
    these are the first.

    Example:
        >>> model = fp.replace(model, inputs, replacement="widened_convolution", widening=2, bits=4)
    """

    def matches(self, module: nn.Module) -> bool:
        """Whether ``replace`` takes this module."""
        return _objection(module) is None

    def replace(self, module: nn.Module, *, widening: int = 2, bits: int | None = 4) -> nn.Module:
        """A widened convolution; ``module`` is left as it is.

        Args:
            module: a convolution.
            widening: r, wide features for each filter; even, at least 2.
            bits: k, of weights and features, 1 to 8; None rounds nothing, but clips.

        Raises:
            ModelError: the module cannot be widened.
            FlowpruneError: ``widening`` or ``bits`` is none of these.
        """
        objection = _objection(module)
        if objection is not None:
            raise ModelError(objection)
        if isinstance(widening, bool) or not isinstance(widening, int) or widening < 2 or widening % 2:
            raise FlowpruneError(f"widening={widening!r}: wide features come in pairs; give an even number from 2 on")
        conv = cast(nn.Conv2d, module)
        filters, weight = conv.out_channels, conv.weight
        wide = convolution_like(conv, widening * filters, bias=False)
        projection = pointwise(conv, widening * filters, filters, bias=conv.bias is not None)
        with torch.no_grad():
            wide.weight.copy_(torch.cat([weight, -weight]).repeat(widening // 2, 1, 1, 1))
            if conv.bias is not None and projection.bias is not None:
                projection.bias.copy_(conv.bias)
        new = WidenedConv2d(wide, projection, None if bits is None else checked_dorefa_bits(bits))
        # Of inputs whose mean square is 1, as behind a batch norm, until somebody knows better.
        deviation = weight.detach().flatten(1).norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
        new.reach(DEVIATIONS * deviation, DEVIATIONS * deviation)
        return new.train(conv.training)

    def restore(self, module: nn.Module) -> nn.Module | None:
        """Convolution, grid and projection as plain layers, the weights on their levels; None for any other module."""
        if not isinstance(module, WidenedConv2d):
            return None
        wide = convolution_like(module.wide, module.wide.out_channels, bias=True)
        assert wide.bias is not None and module.scale.bias is not None
        with torch.no_grad():
            wide.weight.copy_(module.levels() * module.scale.weight)
            wide.bias.copy_(module.scale.bias)
        layers = {"wide": wide, "grid": copy.deepcopy(module.grid), "projection": copy.deepcopy(module.projection)}
        return nn.Sequential(OrderedDict(layers)).train(module.training)

    def in_model(
        self, model: nn.Module, inputs: Any, names: Sequence[str] | None = None, **options: Any
    ) -> tuple[nn.Module, list[tuple[list[str], dict[str, Any]]]]:
        """A copy of the model with hidden convolutions widened, over the ranges that their batch norms know.

        Raises:
            FlowpruneError: there is none, or as ``replace``.
        """
        layers = filter_layers(model, inputs, trace(model, inputs))
        norms = {layer.name: layer.norm for layer in layers}
        known = dict(model.named_modules(remove_duplicate=False))
        if names is None:
            hidden = [layer.name for layer in layers if layer.kind == "convolution"][1:]
            names = [name for name in hidden if name in known and self.matches(known[name])]
            if not names:
                raise FlowpruneError(
                    f"{type(model).__name__} has no convolution behind the first of one group and two dimensions to widen"
                )
        chosen = matching(model, self, names)
        new = replace_modules(model, self, chosen, **options)
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        modules = dict(new.named_modules(remove_duplicate=False))
        for name in chosen:
            norm = norms.get(name)
            if norm is not None:
                _reach_of(cast(WidenedConv2d, modules[name]), norm, tensors)
        return new, [(chosen, options)]


def _reach_of(widened: WidenedConv2d, norm: FollowingNorm, tensors: dict[str, Tensor]) -> None:
    """As far as three deviations from the mean that the batch norm behind it has seen; one deviation at least on both sides."""
    mean, deviation = tensors[norm.running_mean].double(), tensors[norm.running_var].double().add(norm.eps).sqrt()
    if widened.projection.bias is not None:
        mean = mean - widened.projection.bias.detach().double()
    reach = DEVIATIONS * deviation
    widened.reach((reach - mean).maximum(deviation), (reach + mean).maximum(deviation))


def _objection(module: nn.Module) -> str | None:
    """Why a module cannot be widened, in one line."""
    if type(module) is not nn.Conv2d or module.groups != 1:
        return f"a {type(module).__name__} cannot be widened; only a Conv2d of one group can"
    if not isinstance(module.weight, nn.Parameter) or hasattr(module, "parametrizations"):
        return "its weight is computed from others, which a wide one could not be"
    return None
