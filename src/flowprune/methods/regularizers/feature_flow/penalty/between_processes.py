"""Sums over all processes that the gradient goes through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def summed(parts: Sequence[Tensor]) -> list[Tensor]:
    """Every tensor summed over the processes of ``torch.distributed``, in one exchange; themselves where there is one process.

    The gradient of a sum is summed as well, so that the mean over processes, which DistributedDataParallel takes, is that of one
    process with all images.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return list(parts)
    flat = torch.cat([part.reshape(-1) for part in parts])
    if flat.requires_grad:
        from torch.distributed.nn.functional import all_reduce

        flat = all_reduce(flat)
    else:
        distributed.all_reduce(flat)
    return [
        piece.view(part.shape) for piece, part in zip(flat.split([part.numel() for part in parts]), parts, strict=True)
    ]
