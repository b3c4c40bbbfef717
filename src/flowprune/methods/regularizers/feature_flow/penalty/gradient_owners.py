"""Whether a gradient that a tensor hook is handed belongs to nobody else, so that it may be added to in place."""

from __future__ import annotations

import sys
from functools import lru_cache

import torch
from torch import Tensor

Holders = tuple[int, int, int]


def holders(gradient: Tensor) -> Holders | None:
    """How many hold the tensor, its storage and its Python object; None where this torch does not tell."""
    storage_count = getattr(torch._C, "_storage_Use_Count", None)
    tensor_count = getattr(gradient, "_use_count", None)
    if storage_count is None or tensor_count is None:
        return None
    return tensor_count(), storage_count(gradient.untyped_storage()._cdata), sys.getrefcount(gradient)


@lru_cache(maxsize=1)
def holders_of_an_owned_gradient() -> Holders | None:
    """What ``holders`` says in a hook whose gradient nobody else holds, found out by experiment; None if it does not tell.

    The counts depend on the versions of Python and torch, never on the tensors. A gradient that is shared, viewed, or kept by
    anybody has a higher one.
    """
    found: list[Holders | None] = []
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        leaf = torch.ones(2, requires_grad=True)
        feature = leaf * 2
        feature.register_hook(_Probe(found))
        (feature.exp() + feature.sin()).sum().backward()
    return found[0] if found else None


class GradientHook:
    """A tensor hook that knows how many hold the gradient it is given; to be called in this way only, or the counts differ."""

    flowprune_transient = True

    def __call__(self, gradient: Tensor | None) -> Tensor | None:
        """What autograd calls."""
        held = None if gradient is None else holders(gradient)
        return self.receive(gradient, held)

    def receive(self, gradient: Tensor | None, held: Holders | None) -> Tensor | None:
        """What the hook does."""
        raise AssertionError


class _Probe(GradientHook):
    def __init__(self, found: list[Holders | None]) -> None:
        self.found = found

    def receive(self, gradient: Tensor | None, held: Holders | None) -> Tensor | None:
        self.found.append(held)
        return None
