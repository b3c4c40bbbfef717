"""A linear regression whose inputs share one unit of weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError, checked_name
from flowprune.methods.recovery._calibration.normal_equations import Moments

Entropy = Literal["large", "small"]
STEPS = 300
"""At most so many tries to lower the loss in the weights."""
SMALLEST = 1e-30
"""Weights do not fall below, so that their logarithm is a number."""


@dataclass(frozen=True)
class EntropicRegression:
    """Weights w of channels on the simplex, and coefficients L of the inputs so weighted, in turns.

    Horenko, SPARTAn, and Generalized Entropic Sparsification, arXiv 2404.04734, with one box (K = 1)::

        loss = error / (T m) |P - L [1; D(w) X]|^2 + entropy sum_i w_i ln w_i + ridge / (d m) |L|^2  [ + sum_i w_i var_i ]

    X ``[d, T]`` are inputs, P ``[m, T]`` outputs, var_i the variance of input i. L is a ridge regression; w minimises the loss for
    this L on the simplex, by exponentiated gradient: steps in the logarithm of w, each of which lowers the loss, preconditioned
    by the curvature of the error as far as that helps (Newton's in the end). Compared with the authors' code (fixture).

    The sum ``+ w ln w`` favours even weights, which L then makes up for: on the fixture's data it leaves inputs that say nothing a
    third of the weight of those that do, while ``favours="small"``, which turns the sign (the paper's abstract speaks of
    minimised entropy), leaves exactly the others.

    Args:
        entropy, error, ridge: the three strengths; error above 0, the others at least 0.
        variance: whether inputs pay for their variance; it pulls weight to those that hardly vary.
        favours: "large" entropy as in the authors' code, or "small".
    """

    entropy: float = 0.01
    error: float = 5.0
    ridge: float = 5e-4
    variance: bool = False
    favours: Entropy = "large"

    def __post_init__(self) -> None:
        checked_name("entropy to favour", self.favours, ("large", "small"))
        for name, value in (("entropy", self.entropy), ("error", self.error), ("ridge", self.ridge)):
            if not (value >= 0 and math.isfinite(value)) or (name == "error" and not value):
                raise FlowpruneError(f"{name}={value}: a strength is a number from 0 on, that of the error above it")

    def alternate(
        self, moments: Moments, channels: Tensor, weights: Tensor | None = None, turns: int = 200
    ) -> tuple[Tensor, Tensor, list[float]]:
        """First coefficients for the weights, then ``turns`` times weights and coefficients; ends where the loss falls by less
        than 1e-8.

        Args:
            moments: of inputs and outputs.
            channels: int64 ``[d]``, the number of the channel that an input belongs to; all of a channel's have one weight.
            weights: ``[channels]`` to begin with; in proportion to the largest correlation with an output if None.
            turns: at least 0.

        Returns:
            w ``[channels]``, L ``[m, 1 + d]`` (the constant first), and the loss before the first turn and after each.
        """
        weights = correlations(moments, channels) if weights is None else weights.double()
        coefficients = self.coefficients(moments, weights[channels])
        losses = [self.loss(moments, channels, weights, coefficients)]
        for _ in range(turns):
            weights = self.weights(moments, channels, coefficients, weights)
            coefficients = self.coefficients(moments, weights[channels])
            losses.append(self.loss(moments, channels, weights, coefficients))
            if losses[-2] - losses[-1] < 1e-8:
                break
        return weights, coefficients, losses

    def coefficients(self, moments: Moments, weights: Tensor) -> Tensor:
        """L for given weights ``[d]`` of the inputs."""
        size = len(weights)
        system = moments.squares.new_empty(size + 1, size + 1)
        system[0, 0] = moments.count
        system[0, 1:] = system[1:, 0] = weights * moments.inputs
        system[1:, 1:] = weights[:, None] * moments.squares * weights
        system.diagonal().add_(self.ridge * moments.count / (size * self.error))
        right = torch.cat([moments.outputs[None], weights[:, None] * moments.products.mT])
        found: Tensor = (
            torch.linalg.pinv(system, hermitian=True) @ right if not self.ridge else torch.linalg.solve(system, right)
        )
        return found.mT

    def weights(self, moments: Moments, channels: Tensor, coefficients: Tensor, weights: Tensor) -> Tensor:
        """w for given coefficients, beginning with other weights."""
        linear, quadratic = self._in_weights(moments, channels, coefficients, len(weights))
        sign = 1.0 if self.favours == "large" else -1.0

        def loss(w: Tensor) -> float:
            return float(linear @ w + w @ quadratic @ w + sign * self.entropy * torch.special.xlogy(w, w).sum())

        w = weights.clamp(min=SMALLEST)
        w = w / w.sum()
        now = loss(w)
        least = self.entropy if self.favours == "large" else 1e-3 * float((quadratic.diagonal() * w).mean())
        least = damping = max(least, 1e-12)
        for _ in range(STEPS):
            slope = linear + 2 * quadratic @ w + sign * self.entropy * (1 + w.log())
            root = w.sqrt()
            curvature = 2 * root[:, None] * quadratic * root
            curvature.diagonal().add_(damping)
            solved = torch.linalg.solve(curvature, torch.stack([root * slope, root], dim=1))
            level = (root @ solved[:, 0]) / (root @ solved[:, 1])
            if float((w * (slope - level)).abs().max()) < 1e-14 * (1 + float(level.abs())):
                break
            in_logarithm = ((level * solved[:, 1] - solved[:, 0]) / root).clamp(-20, 20)
            moved = (w * in_logarithm.exp()).clamp(min=SMALLEST)
            moved = moved / moved.sum()
            if (then := loss(moved)) < now:
                w, now, damping = moved, then, max(least, damping / 8)
            elif damping > 1e12 * least:
                break  # what is left to gain is less than rounding
            else:
                damping *= 4
        return w

    def loss(self, moments: Moments, channels: Tensor, weights: Tensor, coefficients: Tensor) -> float:
        """The loss of the formula."""
        filters, size = len(moments.outputs), len(moments.inputs)
        linear, quadratic = self._in_weights(moments, channels, coefficients, len(weights))
        constant = coefficients[:, 0]
        squared = moments.outputs_squared.sum() - 2 * constant @ moments.outputs + moments.count * constant @ constant
        sign = 1.0 if self.favours == "large" else -1.0
        return float(
            self.error / (moments.count * filters) * squared
            + linear @ weights
            + weights @ quadratic @ weights
            + sign * self.entropy * torch.special.xlogy(weights, weights).sum()
            + self.ridge / (size * filters) * coefficients.square().sum()
        )

    def _in_weights(
        self, moments: Moments, channels: Tensor, coefficients: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """The loss in w, without its entropy: a linear part ``[channels]`` and a quadratic one ``[channels, channels]``."""
        scale = self.error / (moments.count * len(moments.outputs))
        constant, slopes = coefficients[:, 0], coefficients[:, 1:]
        linear = -2 * scale * (slopes * (moments.products - constant[:, None] * moments.inputs)).sum(0)
        quadratic = scale * (slopes.mT @ slopes) * moments.squares
        by_channel = linear.new_zeros(count).index_add(0, channels, linear)
        if self.variance:
            by_channel = by_channel + channel_means(variances(moments), channels, count)
        square = quadratic.new_zeros(count, len(channels)).index_add(0, channels, quadratic)
        return by_channel, square.new_zeros(count, count).index_add(1, channels, square)


def variances(moments: Moments) -> Tensor:
    """``[d]``, of the inputs, divided by T."""
    means = moments.inputs / moments.count
    return (moments.squares.diagonal() / moments.count - means.square()).clamp(min=0)


def channel_means(values: Tensor, channels: Tensor, count: int) -> Tensor:
    """The mean of the inputs' values, by channel."""
    sums = values.new_zeros(count).index_add(0, channels, values)
    return sums / torch.bincount(channels, minlength=count).clamp(min=1)


def correlations(moments: Moments, channels: Tensor) -> Tensor:
    """``[channels]``, in proportion to the largest absolute correlation of an input of a channel with an output; the sum is 1."""
    count = int(channels.max()) + 1
    between = moments.products - moments.outputs[:, None] * moments.inputs / moments.count
    alone = (moments.squares.diagonal() - moments.inputs.square() / moments.count).clamp(min=0).sqrt()
    wanted = (moments.outputs_squared - moments.outputs.square() / moments.count).clamp(min=0).sqrt()
    scale = wanted[:, None] * alone
    correlation = torch.where(scale > 0, between.abs() / torch.where(scale > 0, scale, 1), 0)
    largest = correlation.new_zeros(count).scatter_reduce(0, channels, correlation.amax(0), "amax")
    even = torch.full_like(largest, 1 / count)
    return torch.where(largest.sum() > 0, largest / largest.sum().clamp(min=SMALLEST), even)
