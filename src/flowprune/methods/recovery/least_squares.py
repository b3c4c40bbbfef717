"""Consumers refitted on calibration images, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import CutSlices, Recovery
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.errors import FlowpruneError, ModelError, checked_name
from flowprune.methods.recovery._calibration.consumers import Consumer, consumers
from flowprune.methods.recovery._calibration.in_step import Pairs, calibration_inputs, walk
from flowprune.methods.recovery._calibration.normal_equations import NormalEquations
from flowprune.methods.recovery._calibration.patches import as_matrices, weight_matrix
from flowprune.methods.recovery.registry import REGISTRY

Layers = Literal["consumers", "all"]


@dataclass(frozen=True)
class Refit:
    """Mean squared error of a layer's outputs on the calibration images, before it was refitted and after."""

    before: float
    after: float


@REGISTRY.register("least_squares")
class LeastSquares(Recovery):
    """The layers that read what was cut get the weights with which they say most nearly what they said before.

    He, Zhang & Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, arXiv 1707.06168, equation 1 with
    beta given by the cut, and the multi-branch rule of section 3.2 left out::

        min over W, b:  sum over images |Y - W X - b|^2 + lambda |W - W0|^2

    X is what the layer reads in the *small* network, whose earlier layers have been refitted already, Y what the dense layer
    says of the same images, W0 the weight that the cut left, lambda ``ridge`` times the mean square of an input. The constant b
    goes into the layer's bias or, where it has none, into the running mean of the batch norm that alone reads the layer
    (where it holds in evaluation mode); layers with neither get none.

    Linear layers and convolutions of any dimension, stride, padding, dilation and groups (each group by itself, so each
    channel of a depthwise layer) are refitted. Transposed convolutions, subclasses, layers that run more than once or share
    their weight, computed, masked and quantized weights are left alone: ``left`` says which and why.

    Sums of products are kept for one layer at a time. Beside them a forward is held for each of ``at_once`` batches, in both
    networks; of further batches it is run anew for every layer, so memory does not grow with their number, but time does.

    Args:
        ridge: how strongly weights are held to what they were, at least 0.
        layers: the "consumers" of the cut, or "all" layers that can be refitted.
        at_once: batches whose forwards are held.

    Attributes:
        refits: name of a layer -> its errors, in the order in which they were refitted.
        left: name of a consumer -> why it was left alone.

    Example:
        >>> recovery = LeastSquares(ridge=1e-3)
        >>> small = recovery.prepare(small, dense, plan, batches)
        >>> recovery.refits["layer1.0.conv2"]
        Refit(before=0.021, after=0.004)
    """

    def __init__(self, *, ridge: float = 1e-3, layers: Layers = "consumers", at_once: int = 8) -> None:
        if not (ridge >= 0 and math.isfinite(ridge)):
            raise FlowpruneError(f"ridge={ridge}: weights are held to what they were by a number from 0 on")
        if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
            raise FlowpruneError(f"at_once={at_once!r} is no number of batches: use a whole number such as 8")
        self.ridge, self.at_once = float(ridge), at_once
        self.layers = checked_name("choice of layers", layers, ("consumers", "all"))
        self.refits: dict[str, Refit] = {}
        self.left: dict[str, str] = {}

    def prepare(self, small: nn.Module, dense: nn.Module, plan: CutSlices, batches: Iterable[Any]) -> nn.Module:
        """Refit ``small`` in place and return it.

        Raises:
            DataError: no batch, or one without a tensor.
            ModelError: a layer's input or output is NaN or infinite; the images decide which layers run.
            TraceError: the forward raises on the first batch.
        """
        inputs = calibration_inputs(small, batches)
        self.refits = {}
        with evaluating(small, dense):
            found = consumers(small, dense, plan, inputs[0], every_layer=self.layers == "all")
            self.left = dict(found.left)
            pairs = {name: (layer.small, layer.dense) for name, layer in found.layers.items()}
            for name, seen in walk(small, dense, pairs, inputs, self.at_once) if pairs else ():
                self.refits[name] = refit(found.layers[name], seen, self.ridge)
            unseen = pairs.keys() - self.refits.keys()
            self.left |= dict.fromkeys(sorted(unseen), "its weight is read without the layer being called")
        return super().prepare(small, dense, plan, ())


def refit(layer: Consumer, seen: Pairs, ridge: float) -> Refit:
    """Solve for one layer's weight and constant, and put them there."""
    equations = gathered(layer, seen)
    change, constant = equations.solve(ridge, layer.constant is not None)
    put(layer, weight_matrix(layer.small) + change, constant)
    return Refit(equations.missing, equations.error(change, constant))


def gathered(layer: Consumer, seen: Pairs) -> NormalEquations:
    """The sums over all batches: what a layer reads, and what it lacks as it is.

    Raises:
        ModelError: an input or output is NaN or infinite.
    """
    equations = NormalEquations()
    weight = weight_matrix(layer.small)
    own = _own_constant(layer).to(weight.dtype).reshape(weight.shape[0], -1, 1)
    dimension = -1 if isinstance(layer.dense, nn.Linear) else 1 - layer.dense.weight.dim()
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        for inputs, outputs in seen():
            wanted = outputs.index_select(dimension, layer.filters)
            for patches, columns in as_matrices(layer.small, inputs, wanted):
                equations.add(patches, columns - own - weight @ patches)
    if not equations.count or not math.isfinite(equations.missing):
        raise ModelError(f"{layer.name}: what it reads or says of the calibration images is NaN or infinite")
    return equations


def put(layer: Consumer, weight: Tensor, constant: Tensor) -> None:
    """Give a layer a weight ``[groups, filters, d]``, and add a constant ``[groups, filters]`` to what it says."""
    with torch.no_grad():
        layer.small.weight.copy_(weight.reshape(layer.small.weight.shape))
        if layer.constant is not None:
            moved = constant.flatten().to(layer.constant.dtype)
            layer.constant.add_(moved, alpha=-1 if layer.subtracted else 1)


def _own_constant(layer: Consumer) -> Tensor:
    """What the layer itself adds now."""
    bias = layer.small.bias
    return bias.detach() if isinstance(bias, Tensor) else layer.small.weight.new_zeros(len(layer.small.weight))
