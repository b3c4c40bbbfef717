"""A convolution with more features than it gives out, of k bits each, and the 1x1 projection that leads back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowprune.errors import ModelError
from flowprune.methods.quantizers._channelwise.dorefa import dorefa_activation, dorefa_weight


class FeatureGrid(nn.Module):
    """Features clipped from 0 to where each of them reaches, of so many bits; where ``bits`` is None only clipped.

    Attributes:
        reach: ``[C, 1, 1]``, a buffer.
    """

    reach: Tensor

    def __init__(self, bits: int | None, reach: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("reach", reach)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> the same shape."""
        within = x / self.reach
        return self.reach * (within.clamp(0, 1) if self.bits is None else dorefa_activation(within, self.bits))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"bits={self.bits}"


class WidenedConv2d(nn.Module):
    """``projection(grid(scale wide(x) + shift))``: wide features of k bits, by weights of k bits, and a 1x1 convolution back.

    An ordinary module: it trains, saves and exports; wide features are cut like any hidden channels.

    Attributes:
        wide: the convolution whose weight the quantizer is given.
        scale: of each wide feature, with the shift as its bias: a depthwise 1x1 convolution, whose filters the engine knows, as it
            knows none of a weight that is computed.
        grid: clips and quantizes the wide features.
        projection: P, 1x1, of full precision; its bias is that of the convolution which this stands for.
    """

    def __init__(self, wide: nn.Conv2d, projection: nn.Conv2d, bits: int | None) -> None:
        super().__init__()
        self.wide, self.projection = wide, projection
        self.scale = pointwise(wide, wide.out_channels, wide.out_channels, groups=wide.out_channels)
        self.grid = FeatureGrid(bits, wide.weight.new_ones(wide.out_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, F, H', W']``."""
        made = self.wide._conv_forward(x, self.levels(), None)
        found: Tensor = self.projection(self.grid(self.scale(made)))
        return found

    def levels(self) -> Tensor:
        """``[wide features, C, K, K]``: the filters on their levels, each by itself, so that none changes when another leaves;
        where nothing is rounded, each over its largest weight."""
        weight = self.wide.weight
        if self.grid.bits is not None:
            return dorefa_weight(weight, self.grid.bits, each_filter=True)
        return weight / weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)

    def narrow(self) -> nn.Conv2d:
        """The convolution of full precision that this one was made of.

        Raises:
            ModelError: it was trained or cut since.
        """
        weight, projection = self.wide.weight, self.projection
        filters = projection.out_channels
        whole = len(weight) % (2 * filters) == 0 and torch.equal(weight[:filters], -weight[filters : 2 * filters])
        if whole:
            own = torch.eye(filters, device=weight.device).repeat(1, len(weight) // filters)
            whole = not bool(projection.weight[:, :, 0, 0][own == 0].any())
        if not whole:
            raise ModelError("it was trained or cut since it was widened, so its convolution of full precision is gone")
        plain = convolution_like(self.wide, filters, bias=projection.bias is not None)
        with torch.no_grad():
            plain.weight.copy_(weight[:filters])
            if plain.bias is not None and projection.bias is not None:
                plain.bias.copy_(projection.bias)
        return plain

    @torch.no_grad()
    def reach(self, below: Tensor, above: Tensor) -> None:
        """Set what the features of the plain convolution, without its bias, are taken to lie within: from ``-below`` to ``above``.

        Args:
            below, above: ``[F]``, above 0.
        """
        filters = len(above)
        steps = self.wide.out_channels // (2 * filters)
        found = self.levels().double()
        fitted = (found * self.wide.weight).flatten(1).sum(1) / found.square().flatten(1).sum(1).clamp(min=1e-300)
        step = torch.cat([above, below]).double() / steps
        assert self.scale.bias is not None
        self.grid.reach.copy_(step.repeat(steps)[:, None, None])
        self.scale.weight.copy_(fitted.view(-1, 1, 1, 1))
        self.scale.bias.copy_(-self.grid.reach.flatten() * torch.arange(steps).repeat_interleave(2 * filters).to(found))
        own = torch.eye(filters).to(found)
        self.projection.weight.copy_(torch.cat([own, -own], 1).repeat(1, steps)[:, :, None, None])

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """``[wide features]``: how much each may say, the length of its column of P times how far it reaches."""
        columns: Tensor = self.projection.weight[:, :, 0, 0].norm(dim=0)
        return columns * self.grid.reach.flatten()


def convolution_like(conv: nn.Conv2d, filters: int, *, bias: bool) -> nn.Conv2d:
    """Of the same kernel, stride, padding and dilation."""
    return nn.Conv2d(
        conv.in_channels,
        filters,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=bias,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )


def pointwise(beside: nn.Conv2d, channels: int, filters: int, *, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """1x1, where the other convolution lies and of its number type."""
    weight = beside.weight
    return nn.Conv2d(channels, filters, 1, groups=groups, bias=bias, device=weight.device, dtype=weight.dtype)
