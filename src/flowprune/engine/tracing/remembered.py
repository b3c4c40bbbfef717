"""What an operator returns on meta tensors, remembered.

On meta tensors a result is its sizes, strides and type, and those depend on nothing but the sizes, strides and types of the
arguments.
Torch computes them in Python for many operators (batch norm, activations), which takes most of the time of a trace; and a
network runs the same operator on the same sizes again and again, and four times over in two modes and two models. So the first
call really runs, with all of torch's checks, and equal calls get a tensor of the remembered kind.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload

from flowprune.engine.tracing import known

_LIMIT = 20_000
"""Outcomes kept at most; a large network has a few hundred."""

_PLAIN = (
    int,
    float,
    bool,
    str,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)

_outcomes: dict[Any, tuple[type | None, tuple[Any, ...]]] = {}


class _UnlikeError(Exception):
    """An argument by whose sizes alone the outcome is not known."""


def call(function: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``function(*args, **kwargs)``; on meta tensors from memory, where such a call ran before."""
    if not _is_memorable(function):
        return function(*args, **kwargs)
    at_once = known.result_of(function, args, kwargs)
    if at_once is not None:
        return at_once
    try:
        key = (function, torch.get_default_dtype(), _kind(args), tuple((name, _kind(kwargs[name])) for name in kwargs))
    except _UnlikeError:
        return function(*args, **kwargs)
    outcome = _outcomes.get(key)
    if outcome is None:
        result = function(*args, **kwargs)
        outcome = _outcome(result, args)
        # an in-place operator that changed what it wrote to would not be the same call the next time
        if outcome is not None and _kind(args) == key[2]:
            if len(_outcomes) >= _LIMIT:
                _outcomes.clear()
            _outcomes[key] = outcome
        return result
    container, parts = outcome
    made = [_made(part, args) for part in parts]
    return made[0] if container is None else container(made)


@lru_cache(maxsize=4096)
def _is_memorable(function: OpOverload) -> bool:
    """Whether all it returns is new, or a positional argument it wrote to: views share memory with what they are of."""
    schema = function._schema
    if torch.Tag.inplace_view in function.tags or any(a.kwarg_only and a.alias_info for a in schema.arguments):
        return False  # the second: ``out=``
    return all(returned.alias_info is None or returned.alias_info.is_write for returned in schema.returns)


def _kind(argument: Any) -> Any:
    """What the outcome depends on. Numbers carry their type, because 1, 1.0 and True are equal."""
    kind = type(argument)
    if kind is torch.Tensor or kind is nn.Parameter:
        if not argument.is_meta or argument.layout is not torch.strided or argument.is_complex():
            raise _UnlikeError
        return argument.shape, argument.stride(), argument.dtype
    if kind is tuple or kind is list:
        return kind, tuple(map(_kind, argument))
    if not isinstance(argument, _PLAIN):
        raise _UnlikeError
    return kind, argument


def _outcome(result: Any, args: tuple[Any, ...]) -> tuple[type | None, tuple[Any, ...]] | None:
    """How to make such a result again: None, the place of an argument, or a new tensor's size, stride and type."""
    container = type(result) if type(result) in (tuple, list) else None
    parts: list[Any] = []
    for part in result if container is not None else (result,):
        if part is None:
            parts.append(None)
            continue
        if type(part) is not torch.Tensor and type(part) is not nn.Parameter:
            return None
        place = next((place for place, argument in enumerate(args) if argument is part), None)
        if place is not None:
            parts.append(place)
        elif part.is_meta and part.layout is torch.strided and not part.is_complex():
            parts.append((part.shape, part.stride(), part.dtype))
        else:
            return None
    return container, tuple(parts)


def _made(part: Any, args: tuple[Any, ...]) -> Any:
    if part is None:
        return None
    if isinstance(part, int):
        return args[part]
    size, stride, dtype = part
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")
