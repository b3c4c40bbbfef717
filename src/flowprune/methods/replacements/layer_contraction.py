"""Several linear layers in a row as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError

_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: torch.nn.functional.conv_transpose1d,
    2: torch.nn.functional.conv_transpose2d,
    3: torch.nn.functional.conv_transpose3d,
}


def contract(layers: Sequence[tuple[Tensor, Tensor | None]], groups: int = 1) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the one layer that does what these do one after the other.

    Guo, Alvarez & Salzmann, ExpandNets, NeurIPS 2020, arXiv 1811.10495, equations 2 to 4: the kernels are convolved with each
    other, ``W = W2 * W1`` (for 1x1, KxK, 1x1 it is ``einsum("on,nmkl,mi->oikl")``), and
    ``b = sum_kl W2 b1 + b2``. Compared with the authors' code (fixtures), but for one of its faults: where only the first layer
    has a bias it drops it, and here it counts.

    Exact everywhere only if padding comes before the first bias (padding put on a later layer fills in zeros where the bias
    should be), and for strides and dilations on no layer but one, with 1x1 kernels beside it.

    Args:
        layers: weight and bias of each, first to last: ``[outputs, inputs]`` of a linear layer or
            ``[outputs, inputs / groups, *kernel]`` of a convolution.
        groups: of all of them.

    Returns:
        ``[outputs, inputs / groups, *kernel]`` with kernels as large as they reach together, and ``[outputs]`` or None, in
        the number type of the layers; computed in float64.

    Raises:
        FlowpruneError: there is no layer, or one does not read what the one before makes.

    Example:
        >>> weight, bias = contract([(first.weight, first.bias), (second.weight, second.bias)])
    """
    if not layers:
        raise FlowpruneError("there is no layer to contract")
    weight, bias = layers[0]
    kind, flat = weight.dtype, weight.dim() == 2
    total = (weight[..., None] if flat else weight).double()
    shift = None if bias is None else bias.double()
    for number, (following, added) in enumerate(layers[1:], start=1):
        kernel = (following[..., None] if flat else following).double()
        inner = kernel.shape[1]
        if kernel.dim() != total.dim() or inner * groups != total.shape[0] or kernel.shape[0] % groups:
            raise FlowpruneError(
                f"layer {number} of {list(following.shape)} does not read what {list(total.shape)} makes in {groups} group(s)"
            )
        shift = _shifted(kernel, shift, added, groups)
        total = _convolved(kernel, total, groups)
    return (total[..., 0] if flat else total).to(kind), None if shift is None else shift.to(kind)


def _shifted(kernel: Tensor, before: Tensor | None, added: Tensor | None, groups: int) -> Tensor | None:
    """The bias behind a layer."""
    own = None if added is None else added.double()
    if before is None:
        return own
    inside = kernel.flatten(2).sum(2).reshape(groups, -1, kernel.shape[1])
    through = (inside @ before.reshape(groups, -1, 1)).flatten()
    return through if own is None else through + own


def _convolved(kernel: Tensor, total: Tensor, groups: int) -> Tensor:
    """A kernel behind all before it: every filter is an image of its own, its inputs are the channels."""
    filters = kernel.reshape(groups, -1, *kernel.shape[1:]).transpose(0, 1).flatten(1, 2)
    joined = _TRANSPOSED[total.dim() - 2](filters, total, groups=groups)
    return joined.reshape(len(joined), groups, -1, *joined.shape[2:]).transpose(0, 1).flatten(0, 1)
