"""Carry out a plan: a structural copy of the model whose tensors are slices of the dense ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.surgery.attributes import mend_attributes
from flowprune.engine.surgery.restructuring import renumber, restructured
from flowprune.engine.tracing import model_of, tensors_of
from flowprune.engine.tracing.shadow import check_weights_there, copy_with, to_meta
from flowprune.errors import ModelError


def names_of_tensors(model: nn.Module) -> dict[int, str]:
    """id of every parameter and buffer -> its first dotted name, as a traced graph names it."""
    names: dict[int, str] = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        names.setdefault(id(tensor), name)
    return names


def cut(model: nn.Module, plan: Plan) -> nn.Module:
    """A new, smaller module; ``model`` is untouched.

    Raises:
        ModelError: if the model's tensors are not those the plan was made for, or have no numbers (on the meta device).
    """
    check_weights_there(model)
    model = model_of(model)
    if plan.branches:
        model = restructured(model, plan.branches)
    check_fits(model, plan)
    names = names_of_tensors(model)

    def sliced(tensor: torch.Tensor) -> torch.Tensor:
        name = names.get(id(tensor), "")
        smaller = slice_tensor(tensor.detach(), plan.removed.get(name, {}), plan.shifts.get(name))
        return nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller

    return _copy(model, plan, sliced)


def cut_on_meta(model: nn.Module, plan: Plan) -> nn.Module:
    """The smaller module without weights: what the certificate looks at before anything real is made."""
    if plan.branches:
        model = restructured(model, plan.branches)
    names = names_of_tensors(model)

    def sliced(tensor: torch.Tensor) -> torch.Tensor:
        removed = plan.removed.get(names.get(id(tensor), ""))
        return _sliced_on_meta(tensor, removed) if removed else to_meta(tensor)

    return _copy(model, plan, sliced)


def _copy(model: nn.Module, plan: Plan, stand_in: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    small = copy_with(model, stand_in)
    mend_attributes(small, model, plan)
    if plan.branches:
        renumber(small, plan.branches, plan.removed)
    return small


def check_fits(model: nn.Module, plan: Plan) -> None:
    """Raise a ``ModelError`` naming the first tensor of the plan that ``model`` lacks or has in another shape."""
    tensors = tensors_of(model)
    for name, shape in plan.shapes.items():
        if name not in tensors:
            raise ModelError(
                f"the plan cuts {name}, which this model does not have; was it made for another architecture?"
            )
        if tuple(tensors[name].shape) != tuple(shape):
            raise ModelError(
                f"the plan was made for {name} of shape {tuple(shape)}, this model's is {tuple(tensors[name].shape)}; "
                "was it made for another architecture, or already carried out?"
            )


def slice_tensor(
    tensor: torch.Tensor, removed: Mapping[int, tuple[int, ...]], shift: torch.Tensor | None
) -> torch.Tensor:
    """A copy of ``tensor`` (plus ``shift``) without the indices of each dimension that leave; keeps channels-last memory."""
    result = tensor if shift is None else tensor + shift.to(tensor)
    kept = {
        dimension: _kept(tensor.shape[dimension], indices).to(tensor.device) for dimension, indices in removed.items()
    }
    if 0 in kept and len(kept) > 1 and tensor.numel() > _LARGE:
        result = torch.cat([_selected(result, {**kept, 0: rows}) for rows in kept[0].split(_ROWS)])
    else:
        result = _selected(result, kept)
    if result is tensor:
        result = tensor.clone()
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        result = result.contiguous(memory_format=torch.channels_last)
    return result


def _sliced_on_meta(tensor: torch.Tensor, removed: Mapping[int, tuple[int, ...]]) -> torch.Tensor:
    """What ``slice_tensor`` makes, without the numbers."""
    shape = [size - len(removed.get(dimension, ())) for dimension, size in enumerate(tensor.shape)]
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    smaller = torch.empty(shape, dtype=tensor.dtype, device="meta", memory_format=layout)
    return nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller


_LARGE = 2**20
_ROWS = 64
"""A large tensor is cut this many rows at a time, so that what is between two cuts stays in cache and never fills memory."""


@lru_cache(maxsize=256)
def _kept(size: int, indices: tuple[int, ...]) -> torch.Tensor:
    """The indices of a dimension that stay. The same ones leave from all tensors that carry a group's channels."""
    return torch.from_numpy(np.delete(np.arange(size), list(indices)))


def _selected(tensor: torch.Tensor, kept: dict[int, torch.Tensor]) -> torch.Tensor:
    for dimension, indices in kept.items():
        tensor = tensor.index_select(dimension, indices)
    return tensor
