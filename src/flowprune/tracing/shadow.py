"""Shadows: structural copies of a model that can be traced, hooked and switched without touching the model itself.

A shadow has module objects of its own; its parameters and buffers are the model's own tensors, or stand-ins without memory.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._pytree import tree_flatten, tree_leaves

from flowprune.errors import ModelError, TraceError

TRANSIENT = "flowprune_transient"
"""Hooks whose callable carries this attribute serve training only (the flow's) and are not copied."""

_HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WITHOUT_TENSORS = frozenset({"_modules", *_HOOK_TABLES})


def model_of(model: nn.Module) -> nn.Module:
    """``model`` itself, unless it is a wrapper or holds one: then raise, and say how to unwrap it.

    Raises:
        ModelError: for a compiled model, and for DataParallel, DistributedDataParallel or FSDP anywhere in it.
    """
    if type(model).__name__ == "OptimizedModule":
        raise ModelError("the model is a torch.compile wrapper; pass model._orig_mod and compile the result again")
    for path, module in model.named_modules():
        kind, what, inner = type(module).__name__, path or "the model", f"{path or 'model'}.module"
        if kind in ("DistributedDataParallel", "DataParallel"):
            how = f"put {inner} in its place" if path else f"pass {inner}"
            raise ModelError(f"{what} is wrapped in {kind}; {how} and wrap the result again")
        if "FullyShardedDataParallel" in kind or kind.startswith("FSDP"):
            raise ModelError(f"{what} is sharded by FSDP; prune the unsharded model, then shard the result")
    return model


def strip_transient_hooks(model: nn.Module) -> None:
    """Remove the hooks that only serve training from a copy of a model."""
    for module in model.modules():
        for table in _HOOK_TABLES:
            hooks = getattr(module, table)
            for key in [key for key, hook in hooks.items() if getattr(hook, TRANSIENT, False)]:
                del hooks[key]
                for flags in (
                    "_forward_hooks_with_kwargs",
                    "_forward_hooks_always_called",
                    "_forward_pre_hooks_with_kwargs",
                ):
                    getattr(module, flags, {}).pop(key, None)


def shadow(model: nn.Module, stand_in: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A structural copy of ``model`` in which every tensor it holds is replaced by ``stand_in(tensor)``.

    Shared tensors stay shared. Tensors that are plain attributes of a module (caches) are replaced too.

    Raises:
        ModelError: if the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for name, held in vars(module).items():
            if type(held) in (OrderedDict, set) and not held:
                memo[id(held)] = type(
                    held
                )()  # hook tables, ten a module; copying them takes most of the time otherwise
            elif isinstance(held, (CustomOpDef, OpOverload, OpOverloadPacket)):
                memo[id(held)] = held  # operators have no state, and cannot be copied
            elif name not in _WITHOUT_TENSORS and isinstance(held, (torch.Tensor, list, tuple, dict)):
                for tensor in (held,) if isinstance(held, torch.Tensor) else tree_leaves(held):
                    if isinstance(tensor, torch.Tensor) and id(tensor) not in memo:
                        memo[id(tensor)] = stand_in(tensor)
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(f"the model {type(model).__name__} cannot be copied (copy.deepcopy says: {error})") from error
    strip_transient_hooks(copied)
    return copied


def meta_shadow(model: nn.Module) -> nn.Module:
    """A shadow on meta tensors: shapes and types only, no memory for weights."""
    return shadow(model, to_meta)


def to_meta(tensor: torch.Tensor) -> torch.Tensor:
    """The stand-in of ``tensor`` that has its shape, strides and type, and no data."""
    on_meta = tensor.detach().to("meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(on_meta, requires_grad=tensor.requires_grad)
    return on_meta


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call ``model`` on example inputs: a dictionary by keyword, a tuple or list by position, anything else as the one argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def first_tensor(inputs: Any) -> torch.Tensor:
    """The first tensor among example inputs.

    Raises:
        TraceError: if there is none.
    """
    for leaf in tree_flatten(inputs)[0]:
        if isinstance(leaf, torch.Tensor):
            return leaf
    raise TraceError(
        "the example inputs hold no tensor; pass what the model's forward takes, for example torch.zeros(1, 3, 32, 32)"
    )


def batch_size(inputs: Any) -> int:
    """How many images example inputs hold: the first size of the first tensor, or the length of a list of images.

    Raises:
        TraceError: if there is no tensor.
    """
    first = first_tensor(inputs)
    arguments = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if isinstance(arguments, (tuple, list)) and arguments and isinstance(arguments[0], (tuple, list)):
        return len(arguments[0])
    return int(first.shape[0]) if first.dim() else 1
