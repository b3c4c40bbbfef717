"""What an operator returns on meta tensors, remembered, or known at once.

On meta tensors a result is its sizes, strides and type, and those depend on nothing but the sizes, strides and types of the
arguments.
Torch computes them in Python for many operators (batch norm, activations), which takes most of the time of a trace; and a
network runs the same operator on the same sizes again and again, and four times over in two modes and two models. So the first
call really runs, with all of torch's checks, and equal calls get a tensor of the remembered kind.

A batch norm on meta tensors takes torch a millisecond, though, and every layer of the small model is of a size not seen before. So
of the few operators of every network whose result anybody can tell at once, the plain case (contiguous floating-point tensors that
fit together) is answered here, and everything else, and every error, is left to torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.types import Number

_LIMIT = 20_000
"""Outcomes kept at most; a large network has a few hundred."""

_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)

_PLAIN_CASES = {
    "in place": "relu_ hardtanh_ silu_ hardswish_ hardsigmoid_ sigmoid_ leaky_relu_ elu_",
    "entry by entry": "relu gelu silu hardtanh hardswish hardsigmoid sigmoid tanh leaky_relu elu",
    "batch norm": "native_batch_norm",
    "layer norm": "native_layer_norm",
}
_KNOWN: dict[OpOverload, str] = {
    getattr(torch.ops.aten, name).default: kind for kind, names in _PLAIN_CASES.items() for name in names.split()
}
"""How an operator's plain case is told at once."""

_outcomes: dict[Any, tuple[type | None, tuple[Any, ...]]] = {}


class _UnlikeError(Exception):
    """An argument by whose sizes alone the outcome is not known."""


def call(function: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``function(*args, **kwargs)``; on meta tensors from memory, where such a call ran before."""
    kind = answered_by(function)
    if kind == "torch":
        return function(*args, **kwargs)
    if kind != "memory":
        at_once = known(kind, args, kwargs)
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
def answered_by(function: OpOverload) -> str:
    """Who says what it returns: "torch" alone, "memory", or one of the kinds of ``known``.

    What is remembered must be all new, or a positional argument it wrote to: views share memory with what they are of.
    """
    schema = function._schema
    if torch.Tag.inplace_view in function.tags or any(a.kwarg_only and a.alias_info for a in schema.arguments):
        return "torch"  # the second: ``out=``
    if not all(returned.alias_info is None or returned.alias_info.is_write for returned in schema.returns):
        return "torch"
    return _KNOWN.get(function, "memory")


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


def known(kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator of a known kind returns on these arguments; None where they are no plain case."""
    if not args or not _is_plain(args[0]):
        return None
    x = args[0]
    if kind == "batch norm":
        return _batch_norm(*args, **kwargs)
    if kind == "layer norm":
        return _layer_norm(*args, **kwargs)
    if not all(isinstance(other, (Number, str)) for other in (*args[1:], *kwargs.values())):
        return None
    return x if kind == "in place" else _like(x)


def _is_plain(tensor: Any) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.is_meta
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.is_contiguous()
    )


def _batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> tuple[torch.Tensor, ...] | None:
    if x.dim() < 2 or not _fit((weight, bias, mean, variance), x.shape[1:2], x.dtype):
        return None
    if (mean is None) is not (variance is None) or (mean is None and not training):
        return None
    return _like(x), _new(x, x.shape[1:2]), _new(x, x.shape[1:2])


def _layer_norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> tuple[torch.Tensor, ...] | None:
    inner = len(shape)
    if not inner or tuple(x.shape[-inner:]) != tuple(shape) or not _fit((weight, bias), x.shape[-inner:], x.dtype):
        return None
    moments = (*x.shape[:-inner], *(1,) * inner)
    return _like(x), _new(x, moments), _new(x, moments)


def _like(x: torch.Tensor) -> torch.Tensor:
    """What ``empty_like`` makes of a contiguous tensor; torch makes that in Python, too."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _new(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _fit(tensors: tuple[Any, ...], shape: torch.Size, dtype: torch.dtype) -> bool:
    return all(t is None or (_is_plain(t) and t.shape == shape and t.dtype == dtype) for t in tensors)
