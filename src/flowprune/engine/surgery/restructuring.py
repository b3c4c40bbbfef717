"""Carry out what a plan says of residual branches: open their ends, replace what has no live end left. Structure only.

The result computes on its branches that still live exactly what the model does; which of their channels leave is a matter of the
plan's slices, like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from flowprune.engine.allocation.plan import BranchChange
from flowprune.engine.surgery.branch_modules import (
    ACTIVATIONS,
    CONSTANT,
    PLACES,
    READS,
    AddedConstant,
    ConstantEnd,
    PositionsOnly,
    can_be_placed,
    can_read,
    placed,
    reading,
)
from flowprune.engine.tracing.shadow import copy_with
from flowprune.errors import ModelError

KINDS = ("opened", "reading", "ended", "constant", "vanished")


def restructured(model: nn.Module, branches: Sequence[BranchChange]) -> nn.Module:
    """A structural copy that shares the model's tensors, its branches opened or replaced; ``model`` itself without any.

    Raises:
        ModelError: a module that a branch names is missing or of another kind.
    """
    if not branches:
        return model
    copied = copy_with(model, lambda tensor: tensor)
    for branch in branches:
        _carry_out(copied, branch)
    return copied


def _carry_out(model: nn.Module, branch: BranchChange) -> None:
    module = _submodule(model, branch.module)
    if branch.kind not in KINDS or branch.activation not in ACTIVATIONS:
        raise _other(branch.module, f"{branch.kind!r} with {branch.activation!r} is no change that is known")
    if branch.kind == "opened":
        if not can_be_placed(module):
            raise _other(branch.module, f"it is a {type(module).__name__}")
        placed(module, branch.rank)
        return
    if branch.kind == "reading":
        if not can_read(module):
            raise _other(branch.module, f"it is a {type(module).__name__}")
        reading(module)
        return
    if branch.kind == "vanished":
        _replace(model, branch.module, nn.Identity())
        return
    constant = _zeros(module, branch)
    if branch.kind == "constant":
        _replace(model, branch.module, AddedConstant(constant, branch.activation))
        return
    for path in branch.stand_ins:
        inner = _submodule(model, path)
        stride = getattr(inner, "stride", None)
        _replace(model, path, nn.Identity() if stride is None else PositionsOnly(tuple(stride)))
    _replace(model, branch.module, ConstantEnd(constant))


def _zeros(module: nn.Module, branch: BranchChange) -> torch.Tensor:
    like = next((tensor for tensor in module.parameters() if tensor.is_floating_point()), None)
    if like is None:
        raise _other(branch.module, "it has no parameters")
    return like.detach().new_zeros([1, branch.channels, *[1] * (branch.rank - 2)])


def _submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        if not path:
            raise AttributeError
        return model.get_submodule(path)
    except AttributeError as error:
        raise _other(path, "this model has no such module") from error


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    around, _, name = path.rpartition(".")
    module.training = model.training
    setattr(model.get_submodule(around), name, module)


def _other(path: str, what: str) -> ModelError:
    return ModelError(
        f"the plan changes the branch at {path!r}, but {what}; was it made for another architecture, or already carried out?"
    )


def renumber(
    small: nn.Module, branches: Sequence[BranchChange], removed: Mapping[str, Mapping[int, tuple[int, ...]]]
) -> None:
    """Make the places of live ends count the stream's channels that are left; ``small`` is a slice of ``restructured``.

    Raises:
        ModelError: a live end belongs to a channel of the stream that left.
    """
    for branch in branches:
        if branch.kind not in ("opened", "reading"):
            continue
        new = new_places(branch, removed)
        held = getattr(small.get_submodule(branch.module), PLACES if branch.kind == "opened" else READS)
        if not held.is_meta:
            held.copy_(torch.from_numpy(new))


def new_places(branch: BranchChange, removed: Mapping[str, Mapping[int, tuple[int, ...]]]) -> np.ndarray:
    """[live]: where each live end, or each channel that is read, sits in what is left of the stream.

    Raises:
        ModelError: as ``renumber``.
    """

    def kept(gone: Iterable[int]) -> np.ndarray:
        return np.delete(np.arange(branch.channels), list(gone))

    def taken(buffer: str, dimension: int) -> tuple[int, ...]:
        return removed.get(f"{branch.module}.{buffer}", {}).get(dimension, ())

    opened = branch.kind == "opened"
    stream = kept(taken(CONSTANT, 1) if opened else branch.stream_removed)
    live = kept(taken(PLACES if opened else READS, 0))
    if not np.isin(live, stream).all():
        raise ModelError(f"the plan keeps a channel at {branch.module} that leaves its stream; plan again")
    return np.searchsorted(stream, live)
