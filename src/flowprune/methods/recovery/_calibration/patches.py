"""A convolution or linear layer as a product of matrices: what its weight is multiplied with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST = 2**24
"""Numbers in a matrix of patches; more images than fit are taken in several."""


def as_matrices(layer: Any, inputs: Tensor, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What a layer reads, and what is to come out, as the columns of matrices, some images at a time.

    ``weight_matrix(layer) @ patches`` is the layer's output without its bias.

    Args:
        layer: a linear layer or a convolution of any dimension, stride, dilation, padding and number of groups.
        inputs: of the layer: ``[..., features]``, or ``[images, channels, ...]``; a single image without the first dimension.
        outputs: ``[..., filters]`` or ``[images, filters, ...]``.

    Yields:
        Patches ``[groups, inputs of a filter, positions]`` and outputs ``[groups, filters of a group, positions]``, at least in
        float32.
    """
    kind = torch.promote_types(layer.weight.dtype, torch.float32)
    if isinstance(layer, nn.Linear):
        x, y = inputs.reshape(-1, inputs.shape[-1]), outputs.reshape(-1, outputs.shape[-1])
        step = max(1, LARGEST // max(1, x.shape[1]))
        for some, wanted in zip(x.split(step), y.split(step), strict=True):
            yield some.to(kind).mT[None], wanted.to(kind).mT[None]
        return
    dimensions = layer.weight.dim() - 2
    x, y = (t if t.dim() == dimensions + 2 else t[None] for t in (inputs, outputs))
    one = layer.weight[0].numel() * layer.groups * max(1, y[0, 0].numel())
    step = max(1, LARGEST // one)
    for some, wanted in zip(x.split(step), y.split(step), strict=True):
        yield _patches(layer, some.to(kind), dimensions), _by_group(wanted.to(kind), layer.groups)


def weight_matrix(layer: Any) -> Tensor:
    """``[groups, filters of a group, inputs of a filter]``, at least in float32."""
    kind = torch.promote_types(layer.weight.dtype, torch.float32)
    groups = getattr(layer, "groups", 1)
    matrix: Tensor = layer.weight.detach().to(kind).reshape(groups, layer.weight.shape[0] // groups, -1)
    return matrix


def _by_group(tensor: Tensor, groups: int) -> Tensor:
    """``[images, channels, ...]`` as ``[groups, channels of a group, images x positions]``."""
    grouped: Tensor = tensor.flatten(2).unflatten(1, (groups, -1))
    return grouped.permute(1, 2, 0, 3).flatten(2)


def _patches(layer: Any, images: Tensor, dimensions: int) -> Tensor:
    around: list[int] = []
    for size, dilation, padding in zip(
        reversed(layer.kernel_size), reversed(layer.dilation), reversed(_padding(layer, dimensions)), strict=True
    ):
        whole = dilation * (size - 1)
        around += [whole // 2, whole - whole // 2] if padding is None else [padding, padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    seen = functional.pad(images, around, mode=mode) if any(around) else images
    for dimension in range(dimensions):
        size, dilation, stride = (one[dimension] for one in (layer.kernel_size, layer.dilation, layer.stride))
        seen = seen.unfold(2 + dimension, dilation * (size - 1) + 1, stride)[..., ::dilation]
    # [images, channels, positions by dimension, kernel by dimension] -> [groups, channels of a group x kernel, positions]
    seen = seen.unflatten(1, (layer.groups, -1))
    kernel = range(3 + dimensions, 3 + 2 * dimensions)
    seen = seen.permute(1, 2, *kernel, 0, *range(3, 3 + dimensions))
    matrix: Tensor = seen.flatten(2 + dimensions).flatten(1, 1 + dimensions)
    return matrix


def _padding(layer: Any, dimensions: int) -> list[int | None]:
    """Of each dimension; None where it is as much as the kernel needs."""
    if isinstance(layer.padding, str):
        return [None if layer.padding == "same" else 0] * dimensions
    return list(layer.padding)
