"""HASTE's convolution: in each tile of the image, channels that are alike are averaged, and the filters' slices for them summed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements.channel_hashes import codes, sparse_planes, spent
from flowprune.methods.replacements.hooks import objection_to_hooks
from flowprune.methods.replacements.registry import REGISTRY

LARGEST = 2**24
"""Pairs of channels that are looked at together; more images than fit are taken in several."""


class _Hashed:
    """What convolutions of every number of dimensions share.

    Attributes:
        planes: int8 ``[planes, numbers in a tile]``, a buffer.
        tile: positions of the output along each side of a tile.
        scale: whether channels have to be of about one size to be averaged.
    """

    planes: Tensor
    tile: int
    scale: bool
    _met: tuple[Tensor, Tensor] | None = None
    """Of the last call: how many averages were left of the channels in each tile, int64 [images, tiles]; how many positions of
    the output each tile has, int64 [tiles]."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """[N, C, ...] -> what the convolution makes of it, with its channels averaged where they are alike."""
        dimensions = self.weight.dim() - 2
        if x.dim() == dimensions + 1:
            single: Tensor = self.forward(x[None])[0]
            return single
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            exported: Tensor = self._convolved(x, dimensions)[0]
            return exported
        step = max(1, LARGEST // max(1, self.in_channels**2 * math.prod(self._tiles(x))))
        parts = [self._convolved(some, dimensions) for some in x.split(step)]
        self._met = (torch.cat([left for _, left, _ in parts]), parts[0][2])
        return torch.cat([made for made, _, _ in parts])

    def effective_macs(self: Any) -> int:
        """Multiply-accumulates per image, on inputs like those of the last call: those of a convolution of the averages, and,
        counted like them, every addition of the hashes, the averages and the sums of filters.

        Raises:
            FlowpruneError: it was not called yet.
        """
        if self._met is None:
            raise FlowpruneError("a hashed convolution knows its MACs after it has run once; call the model first")
        left, positions = self._met
        images, tiles = left.shape
        filter_size = self.weight[:, 0].numel() // self.groups  # what one channel is multiplied with, at a position
        convolved = int((left * positions).sum()) * filter_size
        merged = images * tiles * self.in_channels - int(left.sum())
        numbers = self.planes.shape[1]
        hashed = images * tiles * self.in_channels * spent(self.planes)
        found: int = round((convolved + hashed + merged * (numbers + filter_size)) / max(1, images))
        return found

    def _convolved(self: Any, x: Tensor, dimensions: int) -> tuple[Tensor, Tensor, Tensor]:
        tiles = self._tiles(x)
        patches = self._patches(x, tiles)  # [N, tiles, C, numbers]
        found = codes(patches.detach(), self.planes, self.scale)
        own_group = torch.arange(self.in_channels, device=x.device) // (self.in_channels // self.groups)
        same = (found[..., :, None] == found[..., None, :]) & (own_group[:, None] == own_group)
        size = same.sum(-1, keepdim=True)
        averages = (same.to(patches) @ patches) / size
        window = [self._window(dimension) for dimension in range(dimensions)]
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dimensions - 1]
        made = convolve(
            averages.reshape(-1, self.in_channels, *window),
            self.weight,
            self.bias,
            self.stride,
            0,
            self.dilation,
            self.groups,
        )
        made = made.reshape(-1, *tiles, self.out_channels, *[self.tile] * dimensions)
        ordered = [0, dimensions + 1]
        for dimension in range(dimensions):
            ordered += [1 + dimension, dimensions + 2 + dimension]
        outputs = [self._outputs(x, dimension) for dimension in range(dimensions)]
        whole = made.permute(ordered).reshape(-1, self.out_channels, *[count * self.tile for count in tiles])
        for dimension, count in enumerate(outputs):
            whole = whole.narrow(2 + dimension, 0, count)
        left = (1 / size).sum((-2, -1)).round().long()
        return whole, left, self._positions(outputs, tiles, x.device)

    def _patches(self: Any, x: Tensor, tiles: Sequence[int]) -> Tensor:
        """``[N, tiles, C, numbers]``: what each tile of the output is computed from, padding and all."""
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        around = list(self._reversed_padding_repeated_twice)
        seen = functional.pad(x, around, mode=mode) if any(around) else x
        dimensions = len(tiles)
        more: list[int] = []
        for dimension in reversed(range(dimensions)):
            reach = (tiles[dimension] - 1) * self.tile * self.stride[dimension] + self._window(dimension)
            more += [0, max(0, reach - seen.shape[2 + dimension])]
        seen = functional.pad(seen, more) if any(more) else seen
        for dimension in range(dimensions):
            size, step = self._window(dimension), self.tile * self.stride[dimension]
            seen = seen.narrow(2 + dimension, 0, (tiles[dimension] - 1) * step + size).unfold(2 + dimension, size, step)
        order = [0, *range(2, 2 + dimensions), 1, *range(2 + dimensions, 2 + 2 * dimensions)]
        return seen.permute(order).reshape(x.shape[0], math.prod(tiles), self.in_channels, -1)

    def _window(self: Any, dimension: int) -> int:
        """How far a tile reads, along a side."""
        return int(
            (self.tile - 1) * self.stride[dimension] + self.dilation[dimension] * (self.kernel_size[dimension] - 1) + 1
        )

    def _outputs(self: Any, x: Tensor, dimension: int) -> int:
        """Positions of the output, along a side."""
        behind = 2 * (len(self.kernel_size) - 1 - dimension)
        size = x.shape[2 + dimension] + sum(self._reversed_padding_repeated_twice[behind : behind + 2])
        return int(
            (size - self.dilation[dimension] * (self.kernel_size[dimension] - 1) - 1) // self.stride[dimension] + 1
        )

    def _tiles(self: Any, x: Tensor) -> list[int]:
        return [-(-self._outputs(x, dimension) // self.tile) for dimension in range(len(self.kernel_size))]

    def _positions(self, outputs: Sequence[int], tiles: Sequence[int], device: torch.device) -> Tensor:
        """int64 ``[tiles]``: those at the far ends may be narrower."""
        found = torch.ones(1, dtype=torch.int64, device=device)
        for size, count in zip(outputs, tiles, strict=True):
            along = (size - self.tile * torch.arange(count, device=device)).clamp(max=self.tile)
            found = (found[:, None] * along).flatten()
        return found


class HashedConv1d(_Hashed, nn.Conv1d):
    """An ``nn.Conv1d`` of averaged channels."""


class HashedConv2d(_Hashed, nn.Conv2d):
    """An ``nn.Conv2d`` of averaged channels."""


class HashedConv3d(_Hashed, nn.Conv3d):
    """An ``nn.Conv3d`` of averaged channels."""


KINDS: dict[type[nn.Module], type[Any]] = {nn.Conv1d: HashedConv1d, nn.Conv2d: HashedConv2d, nn.Conv3d: HashedConv3d}


@REGISTRY.register("hashed_convolution")
class HashedConvolution:
    """Convolutions that, tile by tile of each image, average the channels that a hash cannot tell apart.

    HASTE: Data-Free Dynamic Compression of CNNs for Tractable Efficiency, arXiv 2309.17211; "-style", as there is no code and no
    text beyond the abstracts: hashing by sparse random projections, channels of one bucket averaged and the filters'
    slices for them summed, which the convolution allows as it is linear::

        h_c = sum_l 2^l [v_l . (x_c - mean x_c) > 0],   y = sum_buckets (sum_{c in S} W_c) * (mean_{c in S} x_c)

    Chosen here: a tile are ``tile x tile`` positions of the output with all that they are computed from; buckets are within a
    group of the convolution; with ``scale`` channels have to be of about one size, too, as a hash of signs takes x, 2x and x + 1
    for one another. Exact where only equal channels meet. No training: put it into a trained network.

    What is computed is the same sum the other way round, every channel replaced by the average of its bucket, all tiles at
    once: plain kernels are not made faster by it. ``effective_macs()`` says what a program that sums the filters would compute, and
    ``fp.measure`` asks it, on the very images that it is given.

    Convolutions of any number of dimensions, strides, dilations and paddings are taken, grouped ones, too. Of a depthwise
    convolution and of a single channel there is nothing to merge, a linear layer has no tiles, so transformers keep
    everything but their patches. Cut first: what leaves and what stays cannot be told through averages.

    Example:
        >>> model = fp.replace(model, inputs, replacement="hashed_convolution", planes=12, tile=8)
        >>> fp.measure(model, images).effective_macs
    """

    def matches(self, module: nn.Module) -> bool:
        """Whether ``replace`` takes this module."""
        return _objection(module) is None

    def replace(
        self, module: nn.Module, *, planes: int = 12, tile: int = 8, scale: bool = False, seed: int = 0
    ) -> nn.Module:
        """A hashed convolution with the weights of ``module``, which is left as it is.

        Args:
            module: a convolution.
            planes: of a hash; the fewer, the more channels meet.
            tile: positions of the output along each side of a tile, of an image that has as many.
            scale: whether channels have to be of one size, within a factor of sqrt(2), to meet.
            seed: of the planes.

        Raises:
            ModelError: the module cannot be hashed.
            FlowpruneError: ``planes`` is not 1 to 40, ``tile`` is below 1, or a tile is a single number.
        """
        objection = _objection(module)
        if objection is not None:
            raise ModelError(objection)
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
            raise FlowpruneError(f"tile={tile!r}: a tile has 1 or more positions along each side")
        new: Any = copy.deepcopy(module)
        new.__class__ = KINDS[type(module)]
        new.tile, new.scale = tile, bool(scale)
        numbers = math.prod(new._window(dimension) for dimension in range(len(new.kernel_size)))
        if numbers == 1:
            raise FlowpruneError(
                "tile=1: a tile of a 1x1 convolution is a single number, which has no direction; use 2 or more"
            )
        made = sparse_planes(planes, numbers, seed).to(new.weight.device)
        new.register_buffer("planes", made)
        done: nn.Module = new
        return done

    def restore(self, module: nn.Module) -> nn.Module | None:
        """The plain convolution; None for any other module."""
        plain = next((kind for kind, own in KINDS.items() if type(module) is own), None)
        if plain is None:
            return None
        new = copy.deepcopy(module)
        new.__class__ = plain
        del new._buffers["planes"]
        for name in ("tile", "scale", "_met"):
            new.__dict__.pop(name, None)
        return new


def _objection(module: nn.Module) -> str | None:
    """Why the channels of a module are not hashed."""
    kind = type(module).__name__
    if type(module) not in KINDS:
        return f"a {kind} has no tiles to hash channels in; only Conv1d, Conv2d and Conv3d themselves have"
    hooked = objection_to_hooks(module)
    if hooked is not None:
        return hooked
    if not isinstance(module.weight, nn.Parameter) or hasattr(module, "parametrizations"):
        return f"the weight of this {kind} is computed from others"
    if module.weight.shape[1] == 1:
        return f"the filters of this {kind} read one channel each, so no two can be merged"
    return None
