"""Whether weights are numbers at all."""

from __future__ import annotations

import torch
from torch import nn

from flowprune.engine.tracing.shadow import check_weights_there
from flowprune.errors import ModelError


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity.

    A sum of all entries carries any of them through, and costs one pass and no memory; only where the sum itself is not finite (it
    may have overflowed) does every entry have to be looked at.
    """
    if not tensor.is_floating_point() and not tensor.is_complex():
        return True
    detached = tensor.detach()
    wide = detached.sum(dtype=torch.float32) if detached.dtype in (torch.float16, torch.bfloat16) else detached.sum()
    return bool(torch.isfinite(wide)) or bool(torch.isfinite(detached).all())


def finite(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """``tensor``, detached.

    Raises:
        ModelError: it holds a NaN or an infinity; says the ``name``.
    """
    if not is_finite(tensor):
        raise ModelError(f"{name} holds NaN or infinite values; load weights from before the training diverged")
    return tensor.detach()


def in_double(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The tensor called ``name``, in float64 on the CPU.

    Raises:
        ModelError: it holds a NaN or an infinity.
    """
    return finite(tensors[name], name).to("cpu", torch.float64)


def check_finite(model: nn.Module) -> None:
    """Raise a ``ModelError`` for a model without parameters, or naming the first parameter or buffer that holds NaN or infinity, or
    nothing at all (of a lazy module that has not run, or on the meta device)."""
    if next(model.parameters(), None) is None:
        raise ModelError(f"{type(model).__name__} has no parameters, so there is nothing to prune")
    check_weights_there(model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        finite(tensor, name)
