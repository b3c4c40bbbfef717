"""Copy a tree of modules with other tensors in it, as ``copy.deepcopy`` would, in a fraction of its time.

A plan makes six such copies, and most of a module is the same in all of them: a dozen empty hook tables, numbers, names. Only what
is none of these is left to ``deepcopy``, and so is a module of a class that says how it wants to be copied.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

TRANSIENT = "flowprune_transient"
"""Hooks whose callable carries this attribute serve training only (the flow's) and are not copied."""

_HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOK_FLAGS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")

_UNCHANGING = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes, type, FunctionType, BuiltinFunctionType),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
    }
)
_STATELESS = (CustomOpDef, OpOverload, OpOverloadPacket, torch.jit.ScriptFunction)
"""Operators and scripted functions: ``deepcopy`` refuses them."""

_CONTAINERS = frozenset({dict, OrderedDict, set, list})
_TABLES = frozenset({"_modules", "_parameters", "_buffers"})


class UnknownSizesError(Exception):
    """A lazy module has not run yet."""


def structural_copy(
    model: nn.Module,
    stand_in: Callable[[torch.Tensor], torch.Tensor],
    originals: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> nn.Module:
    """A copy of ``model`` in which every tensor its modules hold, bare or in lists and dictionaries, is ``stand_in(tensor)``.

    What is shared in the model is shared in the copy. Whatever ``deepcopy`` raises is raised.

    Args:
        model: any module.
        stand_in: makes the copy's tensors.
        originals: takes up id of a stand-in -> it (so that the id stays its own), and the tensor it stands for.

    Raises:
        UnknownSizesError: a parameter has no size yet.
    """
    memo: dict[int, Any] = {}
    made = {} if originals is None else originals
    later: list[tuple[dict[str, Any], str, Any]] = []
    # every module and tensor is known, if empty, before anything that may refer to it is copied
    for module in model.modules():
        kind: Any = type(module)
        if issubclass(kind, torch.jit.ScriptModule):
            _enter_scripted(module, memo)
            continue
        if not _is_plain(kind):
            _enter_attributes(module.__dict__.items(), memo, stand_in, made)
            continue
        copied = memo[id(module)] = kind.__new__(kind)
        _enter_attributes(_begun(copied.__dict__, module, memo, later), memo, stand_in, made)
    # What holds others comes after them: a class's own way may ask them something.
    for state, name, held in reversed(later):
        if name in _TABLES:
            state[name] = type(held)((key, _copied(value, memo)) for key, value in held.items())
        else:
            state[name] = copy.deepcopy(held, memo)
    whole: nn.Module = copy.deepcopy(model, memo)  # what is in the memo, unless its class has a way of its own
    strip_transient_hooks(whole)
    return whole


def _enter_scripted(part: nn.Module, memo: dict[int, Any]) -> None:
    """Copy a scripted part as one, with tensors of its own; while gradients are recorded, they would be results of the old ones."""
    if id(part) in memo:
        return
    with torch.no_grad():
        copied = copy.deepcopy(part, memo)
    for old, new in zip(part.modules(), copied.modules(), strict=True):
        memo[id(old)] = new
    for before, after in zip(part.parameters(), copied.parameters(), strict=True):
        after.requires_grad_(before.requires_grad)


def _begun(
    state: dict[str, Any], module: nn.Module, memo: dict[int, Any], later: list[tuple[dict[str, Any], str, Any]]
) -> list[tuple[str, Any]]:
    """Copy into ``state`` what needs no thought of what a module holds; the rest is returned, and noted for ``later``."""
    rest: list[tuple[str, Any]] = []
    state.update(module.__dict__)  # in the module's order
    for name, held in module.__dict__.items():
        kind = type(held)
        if kind in _UNCHANGING:
            continue
        if kind in _CONTAINERS and not held:
            state[name] = memo.setdefault(id(held), kind())
        elif kind is not tuple or not all(type(element) in _UNCHANGING for element in held):
            state[name] = None
            rest.append((name, held))
            later.append((state, name, held))
    state.pop("_compiled_call_impl", None)  # torch leaves it behind, too: it runs the model that was compiled
    return rest


def _enter_attributes(
    attributes: Iterable[tuple[str, Any]],
    memo: dict[int, Any],
    stand_in: Callable[[torch.Tensor], torch.Tensor],
    originals: dict[int, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """Decide what becomes of the tensors among attributes of a module."""
    for name, held in attributes:
        if name in ("_parameters", "_buffers"):
            leaves = held.values()
        elif isinstance(held, torch.Tensor):
            leaves = (held,)
        elif isinstance(held, (tuple, list, dict)) and name != "_modules" and name not in _HOOK_TABLES:
            leaves = tree_leaves(held)
        else:
            if isinstance(held, _STATELESS):
                memo[id(held)] = held
            continue
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor) and id(leaf) not in memo:
                if is_lazy(leaf):
                    raise UnknownSizesError
                made = memo[id(leaf)] = stand_in(leaf)
                originals[id(made)] = made, leaf
            elif isinstance(leaf, _STATELESS):
                memo[id(leaf)] = leaf


def _copied(held: Any, memo: dict[int, Any]) -> Any:
    known = memo.get(id(held))
    return copy.deepcopy(held, memo) if known is None else known


@lru_cache(maxsize=4096)
def _is_plain(kind: Any) -> bool:
    """Whether objects of a class of modules are copied by copying their ``__dict__``, as far as torch is concerned.

    Torch's own ``__setstate__`` only completes what older versions have stored.
    """
    same = all(
        getattr(kind, name, None) is getattr(nn.Module, name, None)
        for name in (
            "__reduce_ex__",
            "__reduce__",
            "__getstate__",
            "__deepcopy__",
            "__getnewargs__",
            "__getnewargs_ex__",
        )
    )
    if not same or not kind.__setstate__.__module__.startswith("torch.nn."):
        return False
    return not any("__slots__" in vars(base) for base in kind.__mro__)


def strip_transient_hooks(model: nn.Module) -> None:
    """Remove the hooks that only serve training from a copy of a model."""
    for module in model.modules():
        for table in _HOOK_TABLES:
            hooks = module.__dict__[table]
            for key in [key for key, hook in hooks.items() if getattr(hook, TRANSIENT, False)] if hooks else ():
                del hooks[key]
                for flags in _HOOK_FLAGS:
                    getattr(module, flags, {}).pop(key, None)
