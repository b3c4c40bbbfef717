"""The Python-level calls of a pass, and the integers they are given: C++ drops where those came from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from flowprune.engine.tracing.integers import Expression, Integer, note_limit

_PAST_OPERATORS = frozenset({"numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage"})
"""Methods of a tensor that hand out its numbers: what is done with them, no operator shows."""


_SIZES_OF_TENSORS = frozenset({"size", "numel", "nelement", "__len__"})
"""Methods of a tensor that return one integer, made of its sizes."""


class PythonCalls(TorchFunctionMode):
    """Remembers which Python-level call is running and its integers, because C++ drops their provenance.

    It also makes the sizes that code reads off a tensor remember which tensor and dimension they are of.
    """

    def __init__(self, number: Callable[[torch.Tensor], int], escaped: dict[int, str], provenance: bool) -> None:
        super().__init__()
        self._provenance = provenance
        self._escaped = escaped
        self.sequences: list[tuple[int, ...]] = []
        self.name = ""
        self._number = number

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outer = self.sequences, self.name
        self.name = getattr(function, "__name__", "")
        if self._provenance:
            self.sequences = list(_integer_sequences((*args, *(kwargs or {}).values())))
            for bound, dimension in _bounds(self.name, args, kwargs or {}):
                note_limit(bound, ("size", self._number(args[0]), dimension))
        if self.name in _PAST_OPERATORS and args and isinstance(args[0], torch.Tensor):
            self._escaped[self._number(args[0])] = self.name
        try:
            result = function(*args, **(kwargs or {}))
        finally:
            self.sequences, self.name = outer
        if isinstance(result, torch.Size):
            number = self._number(args[0])
            if not self._provenance:
                return result
            return torch.Size([Integer(size, ("size", number, place)) for place, size in enumerate(result)])
        asked = getattr(function, "__name__", "")
        if self._provenance and asked in _SIZES_OF_TENSORS and isinstance(result, int):
            number, rank = self._number(args[0]), args[0].dim()
            if asked == "size":
                place = args[1] if len(args) > 1 else (kwargs or {})["dim"]
                return Integer(result, ("size", number, place % rank))
            if asked == "__len__":  # Python makes a plain number of it
                return int(Integer(result, ("size", number, 0)))
            sizes: list[Expression] = [("size", number, place) for place in range(rank)]
            return Integer(result, functools.reduce(lambda left, right: ("*", left, right), sizes, ("number", 1)))
        return result


_CUTTING = frozenset({"split", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"})


def _bounds(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, int]]:
    """What a call cuts a tensor by, and along which dimension. The operator may not show it: what lies beyond the end is as good as
    the end."""
    if name in ("__getitem__", "__setitem__"):
        yield from _bounds_of_slices(args[0], args[1])
    elif name in _CUTTING and args and isinstance(args[0], torch.Tensor):
        along = kwargs.get("dim", args[2] if len(args) > 2 else 0)
        given = [*args[1:2], *(number for key, number in kwargs.items() if key != "dim")]
        yield from ((number, along % args[0].dim()) for number in given)


def _bounds_of_slices(tensor: torch.Tensor, index: Any) -> Iterator[tuple[Any, int]]:
    parts = index if isinstance(index, tuple) else (index,)
    taking = [part for part in parts if part is not None and not isinstance(part, bool) and part is not Ellipsis]
    taken = [part.dim() if isinstance(part, torch.Tensor) and part.dtype is torch.bool else 1 for part in taking]
    dimension = 0
    for part in parts:
        if part is Ellipsis:
            dimension += tensor.dim() - sum(taken)
        elif part is not None and not isinstance(part, bool):
            if isinstance(part, slice):
                yield from ((b, dimension) for b in (part.start, part.stop, part.step))
            dimension += part.dim() if isinstance(part, torch.Tensor) and part.dtype is torch.bool else 1


def _integer_sequences(arguments: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
    """The runs of integers among call arguments: list arguments, integers given bare, and the bounds of slices.

    A single number is only worth knowing where it has a provenance; runs are kept whole, because they are matched by their length.
    """
    bare = tuple(argument for argument in arguments if _is_integer(argument))
    if bare:
        yield bare
    for argument in arguments:
        if _is_integer(argument):
            if isinstance(argument, Integer):
                yield (argument,)
        elif isinstance(argument, slice):
            yield from ((bound,) for bound in (argument.start, argument.stop) if isinstance(bound, Integer))
        elif isinstance(argument, (list, tuple)):
            if argument and all(_is_integer(element) for element in argument):
                yield tuple(argument)
            else:
                yield from (run for run in _integer_sequences(tuple(argument)) if len(run) == 1)


def _is_integer(argument: Any) -> bool:
    return isinstance(argument, int) and not isinstance(argument, bool)
