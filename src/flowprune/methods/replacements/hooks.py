"""A module that somebody hooked onto is not replaced: another one in its place would not call the hooks."""

from __future__ import annotations

from torch import nn


def objection_to_hooks(module: nn.Module) -> str | None:
    """Why a module with hooks of any kind is refused, in a line; None for one without."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return f"this {type(module).__name__} has hooks, which another module would not have; take them off first"
    return None
