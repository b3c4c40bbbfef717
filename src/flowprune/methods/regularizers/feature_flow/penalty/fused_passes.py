"""What the penalty does element by element, as one loop that ``torch.compile`` makes, where the user compiles.

In eager mode every elementary operation is a pass of its own over the cache, about ten of them for a link in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError, one_line

P = ParamSpec("P")
R = TypeVar("R")


def _fused(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            done: R = _compiled(function)(*args, **kwargs)
        except Exception as error:
            if not type(error).__module__.startswith("torch._"):
                raise
            raise FlowpruneError(
                f"compiled=True: torch.compile cannot make the penalty's loops here ({one_line(error, 200)}); install a C++ "
                "compiler, or leave it out"
            ) from error
        return done

    return run


@lru_cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True, fullgraph=True)


@_fused
def sizes(feature: Tensor, near: Tensor, far: Tensor | None, gradient: bool) -> Tensor:
    """``[terms]``: sum |feature - near|, if ``gradient``, and sum |feature - 2 near + far|, if there is a ``far``."""
    found = [(feature - near).abs().sum()] if gradient else []
    if far is not None:
        found.append((feature - 2 * near + far).abs().sum())
    return torch.stack(found)


@_fused
def pass_on(
    gradient: Tensor,
    pull: Tensor,
    signs: Tensor | None,
    feature: Tensor,
    near: Tensor,
    far: Tensor | None,
    factors: Tensor,
    first: bool,
    bends_behind: bool,
) -> None:
    """Add a link's pull into ``gradient``, and leave in ``pull`` and ``signs`` what the point before takes over; see ``carrying``.

    Args:
        gradient: of the feature, changed in place.
        pull: ``U`` of the point behind, overwritten by this one's.
        signs: ``t`` of the point behind, overwritten; None where there is no curvature.
        feature, near, far: the link's three features; no ``far`` where the link has no curvature.
        factors: ``[3]``, of the sign of the difference, of ``t`` behind, of ``t`` here; a tensor, as numbers would be compiled in.
        first: nothing is behind, and ``pull`` and ``signs`` hold nothing yet.
        bends_behind: whether ``t`` behind is read.
    """
    added = (feature - near).sign() * factors[0]
    if signs is not None:
        if bends_behind:
            added = added - factors[1] * signs
        here = torch.zeros_like(feature) if far is None else (feature - 2 * near + far).sign()
        added = added + factors[2] * here
        signs.copy_(here)
    gradient.add_(added if first else added - pull)
    pull.copy_(added)
