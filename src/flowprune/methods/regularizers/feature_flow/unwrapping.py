"""From what the user holds to the plain model inside, and from a call's arguments to what a trace takes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from flowprune.engine.tracing import model_of
from flowprune.errors import ModelError


def unwrapped(model: nn.Module) -> nn.Module:
    """The plain model inside compilers' and DistributedDataParallel's wrappers.

    Raises:
        ModelError: for DataParallel (its threads would mix their features up) and FSDP.
    """
    while True:
        kind = type(model).__name__
        if kind == "OptimizedModule":
            inner = model._orig_mod
        elif kind == "DistributedDataParallel":
            inner = model.module
        elif kind == "DataParallel":
            raise ModelError("the feature flow does not work through DataParallel; use DistributedDataParallel")
        elif any(_is_sharded(module) for module in model.modules()):
            raise ModelError("the feature flow does not work on a model sharded by FSDP; use DistributedDataParallel")
        else:
            return model_of(model)
        assert isinstance(inner, nn.Module)
        model = inner


def _is_sharded(module: nn.Module) -> bool:
    kind = type(module).__name__
    return "FullyShardedDataParallel" in kind or kind.startswith("FSDP")


def call_inputs(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """One call's arguments as a trace takes them: a tuple of positional ones, or all of them by keyword."""
    if not keywords:
        return arguments
    return dict(inspect.signature(model.forward).bind(*arguments, **keywords).arguments)
