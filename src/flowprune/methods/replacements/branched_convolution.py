"""Dynamic structure pruning's physical form: a convolution as a few dense ones, each from some channels to some filters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.errors import FlowpruneError, ModelError


class BranchedConvolution(nn.Module):
    """At most one small dense convolution for each group of filters: gather its channels, convolve, add at its filters.

    Park, Kim, Kim, Kim and Choi, Dynamic Structure Pruning for Compressing CNNs, AAAI 2023, arXiv 2303.09736, section on inference.
    An ordinary module: it trains, saves and exports. Filters in no branch are their bias, or 0.

    Args:
        branches: for each, the numbers of the channels that it reads and of the filters that it makes; no filter is in two.
        channels: of the input.
        filters: of the output.
        kernel_size, stride, padding, dilation, padding_mode: as of the convolution it stands for.
        bias: whether every filter has one.

    Raises:
        FlowpruneError: a number is out of range, a filter in two branches, or a branch is empty.

    Example:
        >>> layer = BranchedConvolution([([0, 2], [1]), ([1], [0, 3])], channels=3, filters=4, kernel_size=1)
        >>> layer(torch.zeros(1, 3, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """

    def __init__(
        self,
        branches: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        channels: int,
        filters: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        bias: bool = False,
    ) -> None:
        super().__init__()
        made = [number for _, own in branches for number in own]
        read = [number for own, _ in branches for number in own]
        if len(set(made)) < len(made):
            raise FlowpruneError("a filter is in two branches; every filter is made by one")
        if not branches or any(not own or not makes for own, makes in branches):
            raise FlowpruneError("a branch reads no channel or makes no filter; leave it out, but keep one")
        if min(*made, *read, 0) < 0 or max(made) >= filters or max(read) >= channels:
            raise FlowpruneError(f"branches name channels or filters that are not among {channels} and {filters}")
        shape: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "padding_mode": padding_mode,
        }
        self.filters, self.channels = filters, channels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(len(own), len(makes), kernel_size, bias=False, **shape)  # type: ignore[arg-type]
            for own, makes in branches
        )
        for number, (own, _) in enumerate(branches):
            self.register_buffer(f"reads_{number}", torch.tensor(list(own)))
        self.register_buffer("makes", torch.tensor(made))
        self.bias = nn.Parameter(torch.zeros(filters)) if bias else None
        self.makes: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels, H, W]`` -> ``[N, filters, H', W']``."""
        parts = [
            convolution(x.index_select(1, self.get_buffer(f"reads_{number}")))
            for number, convolution in enumerate(self.convolutions)
        ]
        made = torch.cat(parts, 1)
        empty = made.new_zeros((made.shape[0], self.filters, *made.shape[2:]))
        result = empty.index_add(1, self.makes, made)
        return result if self.bias is None else result + self.bias.view(1, -1, 1, 1)

    def dense_weight(self) -> Tensor:
        """``[filters, channels, *kernel]``, with zeros for kernels in no branch: the masked convolution's weight."""
        first: Any = self.convolutions[0].weight
        dense: Tensor = first.new_zeros((self.filters, self.channels, *first.shape[2:]))
        place = 0
        for number, convolution in enumerate(self.convolutions):
            weight: Any = convolution.weight
            rows = self.makes[place : place + len(weight)]
            dense[rows[:, None], self.get_buffer(f"reads_{number}")[None]] = weight
            place += len(weight)
        return dense


def branched(convolution: nn.Conv2d, mask: Tensor) -> BranchedConvolution:
    """A branched convolution with the function of a masked one: filters that read the same channels are one branch.

    Args:
        convolution: of one group; left as it is.
        mask: bool ``[F, C]``, the kernels that stay.

    Raises:
        ModelError: the convolution has groups, or no kernel of it stays.
    """
    if type(convolution) is not nn.Conv2d or convolution.groups != 1:
        raise ModelError(f"a {type(convolution).__name__} cannot be made of branches; only a Conv2d of one group can")
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(mask.cpu()):
        reads = tuple(row.nonzero().flatten().tolist())
        if reads:
            rows.setdefault(reads, []).append(number)
    if not rows:
        raise ModelError("no kernel of the convolution stays; it is a constant, and the layer can leave")
    weight = convolution.weight
    new = BranchedConvolution(
        list(rows.items()),
        channels=convolution.in_channels,
        filters=convolution.out_channels,
        kernel_size=convolution.kernel_size,
        stride=convolution.stride,
        padding=convolution.padding,
        dilation=convolution.dilation,
        padding_mode=convolution.padding_mode,
        bias=convolution.bias is not None,
    ).to(weight.device, weight.dtype)
    with torch.no_grad():
        for own, (reads, makes) in zip(new.convolutions, rows.items(), strict=True):
            own.weight.copy_(weight[list(makes)][:, list(reads)])  # type: ignore[operator]
        if new.bias is not None and convolution.bias is not None:
            new.bias.copy_(convolution.bias)
    return new.train(convolution.training)


def with_branches(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy of the model with branched convolutions where masks of kernels make that smaller.

    Args:
        model: left as it is.
        masks: name of a convolution's weight -> bool ``[F, C, K, K]``, constant over each kernel.

    Raises:
        ModelError: as ``branched``, naming the weight.
    """
    copied = copy.deepcopy(model)
    for name, mask in masks.items():
        kernels = mask.flatten(2).any(2)
        path = name.rpartition(".")[0]
        parent, _, child = path.rpartition(".")
        module = copied.get_submodule(path)
        if kernels.all():
            continue
        if not isinstance(module, nn.Conv2d) or not kernels.any():
            raise ModelError(f"{name}: no convolution with kernels that stay")
        setattr(copied.get_submodule(parent), child, branched(module, kernels))
    return copied
