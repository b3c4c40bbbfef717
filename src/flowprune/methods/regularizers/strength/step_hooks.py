"""Acting just before an optimizer steps, whoever steps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle


def before_step(optimizer: torch.optim.Optimizer, act: Callable[[Any], None]) -> RemovableHandle:
    """Call ``act(optimizer)`` when the gradients of a step are there and the step has not been made, until the handle is removed.

    An optimizer that is given a closure, as Lightning does it, runs the backward pass in there: then it is called at its end.
    """

    def hook(stepping: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        closure = keywords.get("closure", arguments[1] if len(arguments) > 1 else None)
        if closure is None:
            act(stepping)
            return None

        def and_then() -> Any:
            loss = closure()
            act(stepping)
            return loss

        if "closure" in keywords:
            return arguments, {**keywords, "closure": and_then}
        return (arguments[0], and_then, *arguments[2:]), keywords

    return optimizer.register_step_pre_hook(hook)


def group_of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor | None) -> dict[str, Any]:
    """The parameter group that holds the parameter; the first one where none does."""
    for group in optimizer.param_groups:
        if any(held is parameter for held in group["params"]):
            return group
    return optimizer.param_groups[0]
