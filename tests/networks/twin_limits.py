"""Where the silenced twin is not defined: a channel that the plan removes is read without a weight, and its zero counts.

The twin and the dense model run side by side under a dispatch mode. A statistic, an order or a softmax over a dimension in which
the twin has slices of nothing but zeros, which the dense model has not, is such a place: over fewer channels it is another
number. What the twin computes over kept channels only (norms, see ``silenced_twin.py``) is none: those it watches are left out,
since it has them run otherwise and calls would be paired wrongly; those written out by hand have other sizes there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from silenced_twin import NORMALIZATIONS
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_WATCHED = (
    *("mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "argmax", "argmin", "logsumexp"),
    *("_softmax", "_log_softmax", "prod", "median", "topk", "sort"),
)
"""Operators whose result over fewer channels is another one, though what is gone is zero. (A sum's is not.)"""

Place = tuple[str, int]
"""(operator, which of its calls)."""

Silent = dict[Place, tuple[torch.Size, list[Tensor]]]
"""Place -> shape of what is read, and for each dimension that is reduced or ordered, [indices]: nothing but zeros."""


def undefined(dense: nn.Module, twin: nn.Module, inputs: Sequence[tuple[Any, ...]]) -> str | None:
    """The first place where a zero of the twin counts, in words; None if there is none on any of these inputs.

    Args:
        dense, twin: the model and its twin.
        inputs: several calls' positional arguments. What is silent in one call only is silent by chance.
    """
    suspects: set[Place] | None = None
    where = ""
    for arguments in inputs:
        alive, silent = _watched(dense, arguments), _watched(twin, arguments)
        found = {place for place in silent if place in alive and _more_silent(silent[place], alive[place])}
        suspects = found if suspects is None else suspects & found
        if not suspects:
            return None
        name, call = min(suspects)
        shape = list(silent[name, call][0])
        where = f"aten.{name} (call {call}, of {shape}) reads removed channels, and their zeros count"
    return where


def _more_silent(twin: tuple[torch.Size, list[Tensor]], dense: tuple[torch.Size, list[Tensor]]) -> bool:
    """Whether the twin has a slice of zeros that the dense model has not; of other sizes is what runs over kept channels only."""
    if twin[0] != dense[0]:
        return False
    return any(bool((one & ~other).any()) for one, other in zip(twin[1], dense[1], strict=True))


def _watched(model: nn.Module, arguments: tuple[Any, ...]) -> Silent:
    watch = _Watch()
    with torch.no_grad(), _OutsideNorms(watch), watch:
        model(*arguments)
    return watch.seen


class _OutsideNorms(TorchFunctionMode):
    """Lets the watch look away while a norm runs that the twin runs in its own way."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        before, self._watch.looking = self._watch.looking, self._watch.looking and function not in NORMALIZATIONS
        try:
            return function(*arguments, **(keywords or {}))
        finally:
            self._watch.looking = before


class _Watch(TorchDispatchMode):
    """Notes what is silent at every call of the operators above."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Silent = {}
        self.looking = True
        self._calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if self.looking and name in _WATCHED and arguments[0].dim():
            x = arguments[0]
            zero = x == 0
            names = (argument.name for argument in function._schema.arguments)
            given = dict(zip(names, arguments, strict=False)) | (keywords or {})
            usual = [-1] if name in ("topk", "sort") else range(x.dim())
            dim = given.get("dim", usual)
            dimensions = [dim] if isinstance(dim, int) else list(dim or range(x.dim()))
            quiet = [zero.movedim(d, 0).reshape(x.shape[d], -1).all(1) for d in dimensions]
            self.seen[name, self._calls[name]] = (x.shape, quiet)
            self._calls[name] += 1
        return function(*arguments, **(keywords or {}))
