"""A zero that sees what it is added to: how a percentage learns the task loss from ``criterion(model(x), y) + flow.penalty()``.

While a strength is calibrated the penalty is 0, and a 0 added to a loss changes nothing. So for those few batches ``penalty()`` may
return a tensor of a class of its own whose one talent is to notice sums: the value of the sum is the task loss. Everything else
that is done with it or with the sum is done with the plain tensor inside and gives a plain tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowprune.errors import ModelError

_SUMS = (Tensor.add, Tensor.__add__, Tensor.__radd__, torch.add)
_SUMS_IN_PLACE = (Tensor.add_, Tensor.__iadd__)
_USES = (
    Tensor.backward,
    torch.autograd.grad,
    Tensor.mul,
    Tensor.__mul__,
    Tensor.__rmul__,
    Tensor.mul_,
    Tensor.__imul__,
    torch.mul,
    Tensor.div,
    Tensor.__truediv__,
    Tensor.div_,
    Tensor.__itruediv__,
    torch.div,
)


@dataclass
class Observation:
    """What one zero has seen: the sum it went into (0-dim, detached), until ``closed``."""

    task_loss: Tensor | None = None
    closed: bool = False


class ObservedLoss(Tensor):
    """A zero penalty, or a sum that one went into.

    Sums are followed in any order and any number (``a + penalty + b``, ``loss += penalty``, ``sum([a, penalty])``), until the
    sum is used: ``backward()``, a product (a gradient scaler's) or a quotient (gradient accumulation) ends it. A penalty that
    is multiplied before it is added, stacked, or added to a loss that is no scalar, sees nothing.
    """

    _observations: tuple[Observation, ...]
    _bare: bool

    def __format__(self, specification: str) -> str:
        return format(_plain(self).detach(), specification)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(_plain(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do what was asked with plain tensors; wrap the result again if it is a sum."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if function in _SUMS_IN_PLACE and isinstance(args[0], cls):
                function = torch.add  # the zero is a leaf, and nobody else holds it: a new tensor serves as well
            result = function(*args, **kwargs)
            summed = function in _SUMS or function in _SUMS_IN_PLACE
            if summed and not kwargs and isinstance(result, Tensor):
                return _observed_sum(result, args)
            if function in _USES:
                for argument in _observers(args):
                    for observation in argument._observations:
                        observation.closed = True
            return _plain(result)


def zero_for(task_loss: Tensor | None, like: Tensor) -> tuple[Tensor, Observation]:
    """A zero of ``like``'s device and type, and the observation of the task loss: the one given, or the one it will see.

    Raises:
        ModelError: if the task loss given is not one number.
    """
    zero = torch.zeros((), device=like.device, dtype=like.dtype, requires_grad=torch.is_grad_enabled())
    if task_loss is None:
        observation = Observation()
        return _wrapped(zero, (observation,), bare=True), observation
    if task_loss.numel() != 1:
        raise ModelError(f"the task loss must be one number, not a tensor of shape {tuple(task_loss.shape)}")
    return zero, Observation(task_loss.detach().clone())


def _observers(args: tuple[Any, ...]) -> list[ObservedLoss]:
    flat = [
        element for argument in args for element in (argument if isinstance(argument, (list, tuple)) else (argument,))
    ]
    return [argument for argument in flat if isinstance(argument, ObservedLoss)]


def _wrapped(plain: Tensor, observations: tuple[Observation, ...], bare: bool) -> ObservedLoss:
    wrapped: ObservedLoss = plain.as_subclass(ObservedLoss)
    wrapped._observations = observations
    wrapped._bare = bare
    return wrapped


def _observed_sum(result: Tensor, args: tuple[Any, ...]) -> Tensor:
    observers = _observers(args)
    observations = tuple(observation for observer in observers for observation in observer._observations)
    # Zeros added to zeros, or to the number that sum() starts with, are still nothing but zeros.
    bare = all(
        argument._bare if isinstance(argument, ObservedLoss) else not isinstance(argument, Tensor) for argument in args
    )
    if not bare and result.dim() == 0:
        for observation in observations:
            if not observation.closed:
                observation.task_loss = result.detach().clone()
    elif not bare:
        return result
    return _wrapped(result, observations, bare)


def _plain(result: Any) -> Any:
    if isinstance(result, ObservedLoss):
        with torch._C.DisableTorchFunctionSubclass():
            return result.as_subclass(Tensor)
    return result
