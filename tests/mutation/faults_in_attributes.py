"""Faults in what a small module's forward reads beside its tensors: sizes not mended, or mended to something else."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional

from flowprune.engine.allocation import Plan
from mutation.trial import Mutant

Change = Callable[[nn.Module], None]


def mutants(dense: nn.Module, plan: Plan) -> Iterator[Mutant]:
    """Faults for every integer the plan mends, and for what the forwards of torch's own modules read."""
    for change in plan.attributes:
        place = ".".join(filter(None, (change.module, change.name))) + (
            "" if change.position is None else f"[{change.position}]"
        )
        for kind, value in (("not mended", change.before), ("one too large", change.after + 1)):
            setting = partial(_set_integer, path=change.module, name=change.name, at=change.position, value=value)
            yield Mutant(f"an integer of the user's code {kind}", place, partial(_after_mending, setting))
    for path, module in dense.named_modules():
        for kind, name, value in _wrong_values(module):
            setting = partial(_set, path=path, name=name, value=value)
            yield Mutant(kind, f"{path}.{name} = {value}", partial(_after_mending, setting))
        if type(module).__name__ in ("Attention", "WindowAttention", "MultiheadAttention"):
            yield Mutant("the attention scale changed", path, partial(_after_mending, partial(_rescale, path=path)))


def _wrong_values(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    mended, kept = "a size of torch's module not mended", "an attribute that should have stayed"
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:
            yield mended, "groups", module.groups
            yield "the number of convolution groups wrong", "groups", 1
        yield kept, "stride", tuple(step + 1 for step in module.stride)
        yield kept, "dilation", tuple(step + 1 for step in module.dilation)
        if not isinstance(module.padding, str):
            yield kept, "padding", tuple(step + 1 for step in module.padding)
    elif isinstance(module, nn.BatchNorm2d):
        yield kept, "eps", module.eps * 100
        yield kept, "momentum", 0.75
    elif isinstance(module, nn.LayerNorm):
        yield mended, "normalized_shape", tuple(module.normalized_shape)
        yield kept, "eps", module.eps * 1e4
    elif isinstance(module, nn.GroupNorm):
        yield "the number of norm groups wrong", "num_groups", 1
        yield kept, "eps", module.eps * 1e4
    elif isinstance(module, nn.MaxPool2d):
        yield kept, "kernel_size", 1
    elif isinstance(module, nn.Dropout):
        yield kept, "p", 0.9


def _set(small: nn.Module, path: str, name: str, value: Any) -> None:
    setattr(small.get_submodule(path), name, value)


def _set_integer(small: nn.Module, path: str, name: str, at: int | None, value: int) -> None:
    module = small.get_submodule(path)
    if at is None:
        setattr(module, name, value)
    else:
        held = list(getattr(module, name))
        held[at] = value
        setattr(module, name, type(getattr(module, name))(held))


def _rescale(small: nn.Module, path: str) -> None:
    """As if the scale of attention had been taken from another width: everything else is right."""
    module = small.get_submodule(path)
    if isinstance(getattr(module, "scale", None), float):
        module.scale = module.scale * 1.25  # read where attention is spelled out
    module.forward = partial(_with_other_scale, module)  # type: ignore[method-assign]


def _with_other_scale(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    attention = functional.scaled_dot_product_attention

    def scaled(query: torch.Tensor, *more: Any, **keywords: Any) -> torch.Tensor:
        keywords["scale"] = (query.shape[-1] // 2) ** -0.5
        return attention(query, *more, **keywords)

    with patch.object(functional, "scaled_dot_product_attention", scaled):
        return type(module).forward(module, *args, **kwargs)


def _after_mending(change: Change) -> AbstractContextManager[Any]:
    """Both the copy that is certified and the real small model get the fault."""
    surgery = importlib.import_module("flowprune.engine.surgery.cut")  # the package's ``cut`` is the function
    mend = surgery.mend_attributes

    def wrong(small: nn.Module, dense: nn.Module, plan: Plan) -> None:
        mend(small, dense, plan)
        change(small)

    return patch.object(surgery, "mend_attributes", wrong)
