"""The few operators of every network whose results on meta tensors torch works out slowly, and anybody can tell at once.

A batch norm on meta tensors takes torch a millisecond, and every layer of the small model is of a size not seen before. The rules
here answer only the plain case (contiguous floating-point tensors that fit together) and leave everything else, and every error,
to torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.types import Number

aten = torch.ops.aten

_IN_PLACE = frozenset(
    {
        aten.relu_.default,
        aten.hardtanh_.default,
        aten.silu_.default,
        aten.hardswish_.default,
        aten.hardsigmoid_.default,
        aten.sigmoid_.default,
        aten.leaky_relu_.default,
        aten.elu_.default,
    }
)
_ENTRY_BY_ENTRY = frozenset(
    {
        aten.relu.default,
        aten.gelu.default,
        aten.silu.default,
        aten.hardtanh.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.leaky_relu.default,
        aten.elu.default,
    }
)


def result_of(function: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``function`` returns on these arguments, or None where it is not one of the plain cases."""
    if not args or not _is_plain(args[0]):
        return None
    x = args[0]
    if function in _IN_PLACE or function in _ENTRY_BY_ENTRY:
        if not all(isinstance(other, (Number, str)) for other in (*args[1:], *kwargs.values())):
            return None
        return x if function in _IN_PLACE else _like(x)
    if function is aten.native_batch_norm.default:
        return _batch_norm(*args, **kwargs)
    if function is aten.native_layer_norm.default:
        return _layer_norm(*args, **kwargs)
    return None


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
