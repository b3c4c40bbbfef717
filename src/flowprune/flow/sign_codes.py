"""The signs of a link's two differences in one byte, for the few links that cross a change of shape.

There the features must be pooled or subsampled before they can be compared, which is too dear to do again in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encoded(first: Tensor | None, second: Tensor | None, like: Tensor) -> Tensor:
    """``3 s + t``, int8, from the differences d and c; a missing one counts as 0. Both may be overwritten."""
    code = torch.zeros_like(like, dtype=torch.int8) if first is None else first.sign_().mul_(3).to(torch.int8)
    return code if second is None else code.add_(second.sign_().to(torch.int8))


def decoded(code: Tensor, on_d: float, on_c: float, dtype: torch.dtype) -> Tensor:
    """``on_d s + on_c t``."""
    both = code.to(dtype)
    signs = both.mul(1 / 3).round_()
    return signs.mul_(on_d - 3 * on_c).add_(both, alpha=on_c)
