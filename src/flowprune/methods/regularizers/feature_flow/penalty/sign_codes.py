"""The signs of a link's two differences in one byte, for the few links that cross a change of shape.

There the features must be pooled or subsampled before they can be compared, which is too dear to do again in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encode(code: Tensor, first: Tensor | None, second: Tensor | None) -> None:
    """Write ``3 s + t`` into ``code``, int8, from the signs of d and c; a missing one counts as 0. Both may be overwritten."""
    if first is not None and second is not None:
        code.copy_(second.add_(first, alpha=3))
    elif first is not None:
        code.copy_(first.mul_(3))
    elif second is not None:
        code.copy_(second)
    else:
        code.zero_()


def decoded(code: Tensor, on_d: float, on_c: float, dtype: torch.dtype) -> Tensor:
    """``on_d s + on_c t``."""
    both = code.to(dtype)
    signs = both.mul(1 / 3).round_()
    return signs.mul_(on_d - 3 * on_c).add_(both, alpha=on_c)
