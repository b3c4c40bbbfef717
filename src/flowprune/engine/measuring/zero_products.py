"""Products in which a weight is zero, counted while a shadow of the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_WEIGHTS = {
    "aten::convolution": slice(1, 2),
    "aten::_convolution": slice(1, 2),
    "aten::mm": slice(0, 2),
    "aten::bmm": slice(0, 2),
    "aten::addmm": slice(1, 3),
    "aten::baddbmm": slice(1, 3),
}
"""Operator -> where its operands may be weights; what is added to the products is none of them."""


class ZeroProducts(TorchDispatchMode):
    """While it is on: the FLOPs of convolutions and matrix products in which a weight takes part that is zero.

    Every weight of such an operator takes part in equally many products, so the share of zeros among those it is given, which may
    be a slice of a parameter, is their share of the products. What the forward computes from parameters counts as not zero.

    Args:
        model: the model, whose values are looked at.
        twin: the shadow that runs.
    """

    def __init__(self, model: nn.Module, twin: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        values = _tensors(model)
        self._origins = {
            _storage(stand_in): (stand_in, values[name])
            for name, stand_in in _tensors(twin).items()
            if name in values and not values[name].is_meta
        }
        self._known: dict[tuple[Any, ...], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        place = _WEIGHTS.get(func.name().partition(".")[0])
        if place is not None:
            operands = [a for a in args[place] if isinstance(a, Tensor) and _storage(a) in self._origins]
            zeros, weights = max(((self._zeros(a), a.numel()) for a in operands), default=(0, 1))
            if zeros:
                flops = int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))
                self.flops += flops * zeros // weights
        return out

    def _zeros(self, operand: Tensor) -> int:
        """How many of the weights that an operator is given are zero."""
        key = (_storage(operand), operand.size(), operand.stride(), operand.storage_offset())
        if key not in self._known:
            stand_in, values = self._origins[key[0]]
            if stand_in.stride() == values.stride():
                offset = operand.storage_offset() - stand_in.storage_offset() + values.storage_offset()
                seen = values.detach().as_strided(operand.size(), operand.stride(), offset)
            else:
                seen = values.detach()
            nonzero = int(torch.count_nonzero(seen))
            self._known[key] = operand.numel() - nonzero if seen.numel() == operand.numel() else 0
        return self._known[key]


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return dict(named)


def _storage(tensor: Tensor) -> int:
    """What tells storages apart, also those without memory."""
    return int(tensor.untyped_storage()._cdata)
