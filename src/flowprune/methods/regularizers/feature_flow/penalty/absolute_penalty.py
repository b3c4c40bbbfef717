"""The penalty with ``norm=1`` as one node of autograd's graph whose gradient joins the backward pass as that reaches each feature.

The node's own backward runs first and returns gradients only for features that nothing else gives one to. For all others it arms
hooks on the features: each adds the penalty's pull into the gradient that the network has just computed there. So no difference
and no gradient of the penalty is ever stored, and the memory is that of the training without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowprune.errors import ModelError
from flowprune.methods.regularizers.feature_flow.maps.links import Link
from flowprune.methods.regularizers.feature_flow.penalty.absolute_sums import absolute_sums
from flowprune.methods.regularizers.feature_flow.penalty.carrying import Carry, add_pulls
from flowprune.methods.regularizers.feature_flow.penalty.gradient_owners import (
    GradientHook,
    Holders,
    holders_of_an_owned_gradient,
)
from flowprune.methods.regularizers.feature_flow.penalty.gradient_paths import fed_by_later
from flowprune.methods.regularizers.feature_flow.penalty.pulls import Images, WeighedLink, touched


def absolute_penalty(
    features: Sequence[Tensor | None],
    links: Sequence[Link],
    weights: Sequence[float],
    coefficients: tuple[float, float],
    compiled: bool = False,
) -> Tensor:
    """``k1 sum_l w_l sum |d_l| + k2 sum_l w_l sum |c_l|``, 0-dim, on autograd's graph; subgradient 0 at 0.

    Args:
        features: of one forward, by point, [N, C, ...] each.
        links: those that enter.
        weights: one for each link.
        coefficients: k1 and k2; a term whose coefficient is 0 is not computed.
        compiled: whether its passes are fused.
    """
    weighed = {
        link.index: WeighedLink(link, coefficients[0] * weight, coefficients[1] * weight)
        for link, weight in zip(links, weights, strict=True)
    }
    pass_through = _Backward(weighed, [feature is not None for feature in features], compiled)
    present = [feature for feature in features if feature is not None]
    total: Tensor = _AbsolutePenalty.apply(pass_through, links, weights, coefficients, *present)
    if total.requires_grad:
        pass_through.attach(features)
    return total


class _Backward:
    """What the node and the hooks of one forward share. It holds features only while a backward pass is under way."""

    def __init__(self, links: dict[int, WeighedLink], present: Sequence[bool], compiled: bool) -> None:
        self.links, self.compiled = links, compiled
        self.present = present
        self.explicit: list[int] = []
        self.codes: dict[int, Tensor] = {}
        self.kept: list[int] = []
        self.waiting: set[int] = set()
        self.features: list[Tensor | None] = []
        self.upstream: Tensor | None = None
        self.scale: float | None = None
        self.carry: Carry | None = None

    def attach(self, features: Sequence[Tensor | None]) -> None:
        """Put a hook on every feature that the network itself gives a gradient to; remember the others."""
        holders_of_an_owned_gradient()
        pulled = [touched(index, self.links) for index in range(len(features))]
        fed = fed_by_later(features, pulled)
        for index, feature in enumerate(features):
            if feature is None or not feature.requires_grad or not pulled[index]:
                continue
            if fed[index]:
                feature.register_hook(_Pull(self, index))
            else:
                self.explicit.append(index)

    def arm(self, upstream: Tensor, saved: Sequence[Tensor]) -> list[Tensor | None]:
        """Begin a backward pass; the gradients to return for the features that are present."""
        given = iter(saved)
        self.codes = dict(zip(self.kept, saved[len(saved) - len(self.kept) :], strict=True))
        self.features = [next(given).detach() if here else None for here in self.present]
        # Reading the number would make an accelerator wait, and would cut a second derivative off.
        self.carry = None
        simple = upstream.device.type == "cpu" and not torch.is_grad_enabled()
        self.upstream, self.scale = upstream, float(upstream) if simple else None
        torch.autograd.Variable._execution_engine.queue_callback(self.disarm)
        own: list[Tensor | None] = [None] * len(self.present)
        for index in reversed(self.explicit):
            feature = self.features[index]
            assert feature is not None
            own[index] = self.pulled(torch.zeros_like(feature), index, owned=True)
        self.waiting = set(range(len(self.present))) - set(self.explicit)
        return [gradient for gradient, here in zip(own, self.present, strict=True) if here]

    def disarm(self) -> None:
        """End the backward pass."""
        self.features, self.codes, self.upstream, self.scale, self.carry = [], {}, None, None, None

    def pulled(self, gradient: Tensor, index: int, owned: bool) -> Tensor:
        """The gradient with the penalty's pull at this feature; ``gradient`` itself if it is ``owned``."""
        feature = self.features[index]
        assert self.upstream is not None and feature is not None
        if self.scale is not None:
            if not owned:
                gradient = torch.empty_like(feature).copy_(gradient)
            self.add_pulls(gradient, index, self.scale)
            return gradient
        with torch.no_grad():
            pull = torch.zeros_like(feature, dtype=self.upstream.dtype)
            self.add_pulls(pull, index, 1.0)
        if torch.is_grad_enabled():
            return gradient + (pull * self.upstream).to(gradient.dtype)
        pull.mul_(self.upstream)
        return gradient.add_(pull) if owned else gradient + pull.to(gradient.dtype)

    def add_pulls(self, into: Tensor, index: int, scale: float) -> None:
        """Add the penalty's pull at this feature to ``into``."""
        images = Images(into, self.features, self.codes)
        self.carry = add_pulls(images, index, self.links, scale, self.carry, self.compiled)

    def passed(self, index: int) -> None:
        """Let go of the features that no hook still to come reads."""
        self.waiting.discard(index)
        for point in range(len(self.features)):
            if not any(near in self.waiting for near in range(point - 2, point + 3)):
                self.features[point] = None


class _Pull(GradientHook):
    def __init__(self, backward: _Backward, index: int) -> None:
        self.backward, self.index = backward, index

    def receive(self, gradient: Tensor | None, held: Holders | None) -> Tensor | None:
        backward = self.backward
        if backward.upstream is None or self.index not in backward.waiting:
            return None  # a backward pass that the penalty is no part of
        if gradient is None:
            raise ModelError(
                f"the backward pass brought no gradient to point {self.index} of the feature flow although the network leads "
                "there: a custom autograd function between the points returns none"
            )
        owned = held is not None and held == holders_of_an_owned_gradient() and not torch.is_grad_enabled()
        changed = backward.pulled(gradient, self.index, owned)
        backward.passed(self.index)
        return None if changed is gradient else changed


class _AbsolutePenalty(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        backward: _Backward,
        links: Sequence[Link],
        weights: Sequence[float],
        coefficients: tuple[float, float],
        *present: Tensor,
    ) -> Tensor:
        given = iter(present)
        features = [next(given) if here else None for here in backward.present]
        names = [name for name, each in zip(("gradient", "curvature"), coefficients, strict=True) if each]
        codes: dict[int, Tensor] = {}
        kept = codes if any(ctx.needs_input_grad) else None
        totals = absolute_sums(features, links, weights, names, kept, backward.compiled)
        ctx.save_for_backward(*present, *codes.values())
        backward.kept = list(codes)
        ctx.backward_pass = backward
        return coefficients[0] * totals["gradient"] + coefficients[1] * totals["curvature"]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return None, None, None, None, *ctx.backward_pass.arm(upstream, ctx.saved_tensors)
